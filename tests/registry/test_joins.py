"""Modules that stand on several: stored, found, deleted, checked and loaded, in both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from modkernel.errors import BundleError, InterfaceError, InUseError, NotFoundError
from modkernel.modules.network import assemble
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.bundles.manifest import folder_of
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from modkernel.registry.flavor import load_model
from modkernel.registry.sql.find import ModuleQuery, find_modules
from modkernel.registry.tracking.cards import module_card
from tests.registry.conftest import seldom_postgres
from tests.registry.helpers.bundles import contents, manifest_of, rewrite
from tests.registry.helpers.examples import EVALUATION, Examples, report_of, store_one
from tests.registry.helpers.joined import NAMES, joined

pytestmark = pytest.mark.home("joined")


@pytest.fixture
def any_registry(any_settings: Settings) -> Iterator[Registry]:
    with Registry.open(any_settings) as opened:
        yield opened


@seldom_postgres
def test_a_module_on_several_is_found_by_each_and_goes_first(any_registry: Registry) -> None:
    registry, records = any_registry, any_registry.modules.find()
    first, one, two, alone, output = records
    assert registry.modules.chain(output) == records, "what is shared comes once, and first"
    tops = [two.id, one.id]
    assert registry.modules.joined_chain(tops) == (first, two, one)
    for below in (one, two, alone):
        assert registry.modules.find(upstream=below.id) == (output,)
    assert registry.modules.find(upstream=first.id) == (one, two)
    accuracy = ModuleQuery(accuracy=0.1)
    assert find_modules(registry.backends.database, accuracy) == (output,), "not one module's"

    network = registry.networks.resolve("net")
    assert registry.networks.members(network) == records
    dependents = registry.dependents([first])
    assert {one.id for one in dependents.modules} == {one.id, two.id, output.id}
    with pytest.raises(InUseError, match="net"):
        registry.delete_module(two)
    registry.delete_network(network)
    registry.delete_module(output)
    registry.delete_module(two)
    assert registry.modules.find(upstream=first.id) == (one,)


@pytest.mark.home("empty")
@seldom_postgres
def test_nothing_is_stored_on_a_module_that_is_not_there(
    any_registry: Registry, examples: Examples
) -> None:
    stored = joined(examples)
    for one, name in zip(stored[:3], NAMES, strict=False):
        store_one(any_registry, one, name)
    with pytest.raises(NotFoundError, match=f"stands on module {stored[3].id[:12]}"):
        store_one(any_registry, stored[4], "net.output")


def test_a_joined_network_is_loaded_as_it_was_stored(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    network = registry.networks.resolve("net")
    raw = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    expected = assemble(joined(examples))(raw)
    assert torch.equal(registry.networks.load(network)(raw), expected)
    for one in (network, records[-1]):
        assert torch.equal(load_model(f"models:/{one.name}/{one.version}")(raw), expected)
    assert registry.verify() == ()
    with pytest.raises(InterfaceError, match="Position 1 of 4"):
        registry.networks.add("other", [one.id for one in records[1:]], EVALUATION)


def test_cards_say_what_stands_on_what(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    network, output = registry.networks.resolve("net"), records[-1]
    card = module_card(output, records[:-1], report_of(joined(examples)[-1]))
    assert "on 3 modules side by side" in card.splitlines()[0]
    assert "unit features, each times √weight, side by side, of the 3 modules" in card
    assert "2, 3 (weight 2), 4 (weight 0.5)" in card
    models = registry.backends.models
    (version,) = models.versions(network)
    described = version.description or ""
    assert "an output module on 3 of them side by side" in described.splitlines()[0]
    assert "2, 3 (weight 2), 4 (weight 0.5)" in described
    (version,) = models.versions(output)
    assert version.tags["upstream"] == "a.hidden-2/1, b.hidden-2/1, c.hidden-1/1"
    (version,) = models.versions(records[2])
    assert "net.output" in (version.description or "")


def test_a_joined_network_goes_from_registry_to_registry(
    registry: Registry, other_settings: Settings, examples: Examples, tmp_path: Path
) -> None:
    network = registry.networks.resolve("net")
    export_bundle(registry, "net", tmp_path / "a")
    raw = torch.randint(0, 256, (4, 1, 8, 8)).byte()
    with Registry.open(other_settings) as other:
        found = import_bundle(other, tmp_path / "a")
        assert found.network is not None
        assert (found.network.id, found.new) == (network.id, set(network.module_ids))
        theirs = other.networks.load(found.network)
        assert torch.equal(theirs(raw), assemble(joined(examples))(raw))
        assert other.verify() == ()


def test_a_bundle_whose_graph_is_not_whole_is_refused(
    registry: Registry, other_settings: Settings, tmp_path: Path
) -> None:
    ids = registry.networks.resolve("net").module_ids
    file = tmp_path / "a"
    export_bundle(registry, "net", file)
    all_files, entries = contents(file), json.loads(manifest_of(file).canonical_json())["modules"]
    with Registry.open(other_settings) as other:
        for order, told in (
            ((1, 0, 2, 3, 4), "Position 1 of 5"),
            ((0, 1, 2, 4), "Position 4 of 4"),
            ((0, 1, 2, 3), "nothing here stands on it"),
        ):
            modules = [entries[place] for place in order]
            gone = [folder_of(one) for place, one in enumerate(ids) if place not in order]
            files = {n: c for n, c in all_files.items() if not n.startswith(tuple(gone) or "none")}
            rewrite(file, files, modules=modules)
            with pytest.raises(BundleError, match=told):
                import_bundle(other, file)
        assert other.modules.find() == ()
