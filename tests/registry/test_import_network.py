"""Networks from elsewhere in a registry: stored once, nothing half, cards that say where from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from modkernel.errors import NameTakenError, SpecError, WeightsError
from modkernel.lookup import trusting
from modkernel.modules.network import assemble
from modkernel.modules.stored import stored_weights, write_module
from modkernel.registry import ModuleQuery, ModuleRecord, Registry, Settings
from modkernel.registry.bundles.elsewhere import Images, TakenIn, import_network
from modkernel.registry.bundles.huggingface import export_huggingface
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from modkernel.registry.records import needs
from modkernel.registry.sql.find import find_modules
from modkernel.spec import HiddenSpec
from tests.modkernel.test_imported import HERE, TINY, Tiny, saved
from tests.registry.helpers.examples import Examples, store_one

IMAGES = Images((8, 8), (0.5,), (0.25,))
ENDS = ("stem", "mean")


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return saved(Tiny(), tmp_path / "tiny.safetensors")


def take_in(registry: Registry, path: Path, **changes: Any) -> TakenIn:
    values = {"source": TINY.name, "name": "far", "ends": ENDS, "weights": path}
    return import_network(registry, **(values | {"licence": "mit", "images": IMAGES} | changes))


def card(registry: Registry, record: ModuleRecord) -> tuple[str, dict[str, str]]:
    version = registry.backends.client.get_model_version(record.name, str(record.version))
    return version.description, version.tags


def test_a_network_is_stored_once_and_found(registry: Registry, weights: Path) -> None:
    first = take_in(registry, weights)
    assert [record.name for record in first.modules] == ["far.hidden-1", "far.hidden-2"]
    assert first.new == {record.id for record in first.modules}
    assert first.left_out == ("fc.bias", "fc.weight")
    assert registry.modules.chain(first.modules[1]) == first.modules
    again = take_in(registry, weights, name="other")
    assert (again.modules, again.new) == (first.modules, frozenset())
    assert not list(registry.settings.work_dir.iterdir())
    assert registry.verify() == ()
    found = find_modules(registry.backends.database, ModuleQuery(kind="imported", block="mean"))
    assert found == first.modules[1:]
    assert set(registry.names().modules) == {"far.hidden-1", "far.hidden-2"} | {
        f"{record.name}/1" for record in first.modules
    }
    assert list(needs(first.modules)) == [TINY.name]
    with trusting([TINY.name]):
        assemble([registry.modules.fetch(record) for record in first.modules])


def test_its_pages_say_where_it_is_from(registry: Registry, weights: Path, tmp_path: Path) -> None:
    (record, _) = take_in(registry, weights).modules
    with trusting(["tests"]):
        export_huggingface(registry, record.id, tmp_path / "hub")
    page = (tmp_path / "hub" / "README.md").read_text()
    assert 'license: "mit"' in page
    assert "not known what the network was trained on" in page
    text, tags = card(registry, record)
    assert text.startswith(
        f"Imported module far.hidden-1: stem of {HERE}:Tiny, trained elsewhere, licence mit."
    )
    assert record.spec.kind == "imported"
    assert record.spec.origin.weights_sha256 in text
    assert "## Training" not in text
    assert (tags["kind"], tags["licence"]) == ("imported", "mit")
    assert "labels" not in tags


def test_a_bundle_brings_it(
    registry: Registry, other: Registry, other_settings: Settings, weights: Path, tmp_path: Path
) -> None:
    top = take_in(registry, weights).modules[1]
    export_bundle(registry, top.id, tmp_path / "far.mkb")
    with pytest.raises(SpecError, match="MODKERNEL_TRUSTED_PACKAGES"):
        import_bundle(other, tmp_path / "far.mkb")
    trusted = other_settings.model_copy(update={"trusted_packages": ("tests",)})
    with Registry.open(trusted) as trusting_one:
        assert import_bundle(trusting_one, tmp_path / "far.mkb").modules[1].id == top.id


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"licence": None}, SpecError, "--licence, such as .* 'unknown'"),
        ({"weights": None}, SpecError, "--weights"),
        ({"images": None}, SpecError, "give --image-size, --mean, --std, mean and"),
        ({"images": Images((8, 8), (0.5,), (1, 1))}, SpecError, "--mean has 1 values and --std 2"),
        ({"ends": ("stem", "nothing")}, SpecError, "no block 'nothing'"),
        ({"weights": Path("missing.safetensors")}, WeightsError, "Cannot read"),
        ({"name": "Far"}, SpecError, "cannot name a module"),
    ],
)
def test_what_is_refused_leaves_nothing(
    registry: Registry, weights: Path, changes: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        take_in(registry, weights, **changes)
    assert registry.modules.find() == ()
    assert registry.verify() == ()


def test_a_networks_name_is_not_taken(
    registry: Registry, examples: Examples, weights: Path
) -> None:
    stored = store_one(registry, examples.first())
    registry.networks.add("far.hidden-2", [stored.id], None)
    with pytest.raises(NameTakenError):
        take_in(registry, weights)
    assert registry.modules.find(name="far.hidden-1") == ()


def test_a_module_that_started_from_another_says_so_when_that_is_gone(
    registry: Registry, examples: Examples, tmp_path: Path
) -> None:
    first = examples.first()
    source = store_one(registry, first)
    spec = first.spec.changed(hidden=HiddenSpec(start_from=source.id), source=source.name)
    adapted = write_module(tmp_path / "adapted", spec, stored_weights(first))
    record = store_one(registry, adapted, "new.hidden-1")
    registry.delete_module(source)
    assert registry.modules.find() == (record,)
    assert registry.verify() == ()
    text, tags = card(registry, record)
    assert f"from the weights of net.hidden-1 (`{source.short_id}`)." in text.splitlines()[0]
    assert tags["starts_from"] == "net.hidden-1"
