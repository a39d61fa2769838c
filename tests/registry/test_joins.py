"""Modules that stand on several: stored, found, deleted, checked and loaded, in both databases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from modkernel.errors import BundleError, InterfaceError, InUseError, NotFoundError
from modkernel.modules.network import assemble
from modkernel.modules.stored import StoredModule
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.bundles.manifest import folder_of
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from modkernel.registry.flavor import load_model
from modkernel.registry.sql.find import ModuleQuery, find_modules
from modkernel.registry.tracking.cards import module_card
from tests.modkernel.helpers.stored_examples import store_joined_output
from tests.registry.helpers.bundles import contents, manifest_of, rewrite
from tests.registry.helpers.examples import EVALUATION, Examples, report_of, store_one

WEIGHTS = (1.0, 2.0, 0.5)
NAMES = ("a.hidden-1", "a.hidden-2", "b.hidden-2", "c.hidden-1", "net.output")


@pytest.fixture
def any_registry(any_settings: Settings) -> Iterator[Registry]:
    with Registry.open(any_settings) as opened:
        yield opened


@dataclass(frozen=True)
class Join:
    """Two modules on one, a third by itself, and an output module on these three."""

    stored: tuple[StoredModule, ...]
    records: tuple[ModuleRecord, ...]

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]


def joined(examples: Examples) -> tuple[StoredModule, ...]:
    first, alone = examples.first(), examples.first(seed=2)
    one, two = examples.second(first), examples.second(first, seed=1)
    output, _ = store_joined_output(examples.folder / "joined", (one, two, alone), WEIGHTS)
    return first, one, two, alone, output


def stored_in(registry: Registry, examples: Examples) -> Join:
    stored = joined(examples)
    records = [store_one(registry, *one) for one in zip(stored, NAMES, strict=True)]
    return Join(stored, tuple(records))


def test_a_module_on_several_is_found_by_each_and_goes_first(
    any_registry: Registry, examples: Examples
) -> None:
    registry, join = any_registry, stored_in(any_registry, examples)
    first, one, two, alone, output = join.records
    assert registry.modules.chain(output) == join.records, "what is shared comes once, and first"
    tops = [two.id, one.id]
    assert registry.modules.joined_chain(tops) == (first, two, one)
    for below in (one, two, alone):
        assert registry.modules.find(upstream=below.id) == (output,)
    assert registry.modules.find(upstream=first.id) == (one, two)
    accuracy = ModuleQuery(accuracy=0.1)
    assert find_modules(registry.backends.database, accuracy) == (output,), "not one module's"

    network = registry.networks.add("net", join.ids, EVALUATION)
    assert registry.networks.members(network) == join.records
    dependents = registry.dependents([first])
    assert {one.id for one in dependents.modules} == {one.id, two.id, output.id}
    with pytest.raises(InUseError, match="net"):
        registry.delete_module(two)
    registry.delete_network(network)
    registry.delete_module(output)
    registry.delete_module(two)
    assert registry.modules.find(upstream=first.id) == (one,)


def test_nothing_is_stored_on_a_module_that_is_not_there(
    any_registry: Registry, examples: Examples
) -> None:
    stored = joined(examples)
    for one, name in zip(stored[:3], NAMES, strict=False):
        store_one(any_registry, one, name)
    with pytest.raises(NotFoundError, match=f"stands on module {stored[3].id[:12]}"):
        store_one(any_registry, stored[4], "net.output")


def test_a_joined_network_is_loaded_as_it_was_stored(
    registry: Registry, examples: Examples
) -> None:
    join = stored_in(registry, examples)
    network = registry.networks.add("net", join.ids, EVALUATION)
    raw = torch.randint(0, 256, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    expected = assemble(join.stored)(raw)
    assert torch.equal(registry.networks.load(network)(raw), expected)
    for one in (network, join.records[-1]):
        assert torch.equal(load_model(f"models:/{one.name}/{one.version}")(raw), expected)
    assert registry.verify() == ()
    with pytest.raises(InterfaceError, match="Position 1 of 4"):
        registry.networks.add("other", join.ids[1:], EVALUATION)


def test_cards_say_what_stands_on_what(registry: Registry, examples: Examples) -> None:
    join = stored_in(registry, examples)
    network = registry.networks.add("net", join.ids, EVALUATION)
    output = join.records[-1]
    card = module_card(output, join.records[:-1], report_of(join.stored[-1]))
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
    (version,) = models.versions(join.records[2])
    assert "net.output" in (version.description or "")


def test_a_joined_network_goes_from_registry_to_registry(
    registry: Registry, other_settings: Settings, examples: Examples, tmp_path: Path
) -> None:
    join = stored_in(registry, examples)
    network = registry.networks.add("net", join.ids, EVALUATION)
    export_bundle(registry, "net", tmp_path / "a")
    raw = torch.randint(0, 256, (4, 1, 8, 8)).byte()
    with Registry.open(other_settings) as other:
        found = import_bundle(other, tmp_path / "a")
        assert found.network is not None
        assert (found.network.id, found.new) == (network.id, set(join.ids))
        theirs = other.networks.load(found.network)
        assert torch.equal(theirs(raw), assemble(join.stored)(raw))
        assert other.verify() == ()


def test_a_bundle_whose_graph_is_not_whole_is_refused(
    registry: Registry, other_settings: Settings, examples: Examples, tmp_path: Path
) -> None:
    join = stored_in(registry, examples)
    registry.networks.add("net", join.ids, EVALUATION)
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
            gone = [folder_of(one) for place, one in enumerate(join.ids) if place not in order]
            files = {n: c for n, c in all_files.items() if not n.startswith(tuple(gone) or "none")}
            rewrite(file, files, modules=modules)
            with pytest.raises(BundleError, match=told):
                import_bundle(other, file)
        assert other.modules.find() == ()
