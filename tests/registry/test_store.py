from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from modkernel.errors import ArtifactError, NotFoundError, SpecError
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE
from modkernel.registry import ModuleRecord, Registry, Settings
from modkernel.registry.tracking.artifacts import location_of
from modkernel.registry.tracking.models import MODULE_TAG
from modkernel.spec import DatasetSpec
from tests.registry.conftest import close_mlflow, seldom_postgres
from tests.registry.helpers.examples import Examples, report_of, store_chain, store_one

PICTURE = b"\x89PNG picture"


@pytest.fixture
def any_registry(any_settings: Settings) -> Any:
    with Registry.open(any_settings) as opened:
        yield opened


def versions(registry: Registry, record: ModuleRecord) -> list[Any]:
    return list(
        registry.backends.client.search_model_versions(f"tags.{MODULE_TAG} = '{record.id}'")
    )


def kept_folder(registry: Registry, record: ModuleRecord) -> Path:
    """Where MLflow keeps a module's files."""
    assert record.model_id is not None
    location = location_of(registry.backends.client, record.model_id)
    return Path(unquote(location.removeprefix("file://")))


def test_a_stored_chain_comes_back_whole(any_registry: Registry, examples: Examples) -> None:
    chain = examples.chain()
    records = store_chain(any_registry, chain)
    for stored, record in zip(chain, records, strict=True):
        assert (record.id, record.spec) == (stored.id, stored.spec)
        assert (record.state, record.version) == ("READY", 1)
        assert record.recipe_digest == stored.spec.digest()
        assert record.size_bytes == (stored.folder / WEIGHTS_FILE).stat().st_size
        assert any_registry.modules.find_ready(stored.spec.digest()) == record
        fetched = any_registry.modules.fetch(record)
        assert fetched.id == stored.id
        assert (fetched.folder / WEIGHTS_FILE).read_bytes() == (
            stored.folder / WEIGHTS_FILE
        ).read_bytes()
    assert any_registry.modules.chain(records[-1]) == records
    assert any_registry.modules.chain(records[0]) == records[:1]
    assert any_registry.modules.report(records[-1]) == report_of(chain[-1])
    assert records[0].metrics == {"objective": 0.5, "validation": 0.4}
    assert records[-1].metrics["accuracy_all_labels"] == 0.9
    assert any_registry.verify() == ()


@pytest.mark.postgres
def test_one_postgresql_database_holds_both_stores(
    settings: Settings, postgres_url: str, examples: Examples
) -> None:
    both = Settings(home=settings.home, database_url=postgres_url, mlflow_uri=postgres_url)
    with Registry.open(both) as registry:
        record = store_one(registry, examples.first())
        assert registry.modules.resolve("net.hidden-1/1") == record
        assert registry.modules.fetch(record).id == record.id
        assert registry.verify() == ()
    close_mlflow(both.mlflow_uri)


BIRDS = tuple(f"kind-of-bird-{number:03d}" for number in range(450))


@seldom_postgres
@pytest.mark.parametrize(
    "chosen",
    [
        {"classes": BIRDS},
        {"classes": tuple(f"птица-{number}-{'é' * 90}" for number in range(80))},
        {"groups": {f"group {name}": (name, f"{name}, young") for name in BIRDS[:300]}},
    ],
    ids=["many", "long", "grouped"],
)
def test_a_data_set_of_many_long_class_names_is_remembered_whole(
    any_registry: Registry, examples: Examples, chosen: dict[str, Any]
) -> None:
    dataset, stored = DatasetSpec(name="arrays", path="/birds.npz", **chosen), examples.first()
    record = any_registry.modules.store(
        stored.folder, name="birds.hidden-1", report=report_of(stored), dataset=dataset
    )
    assert len(dataset.canonical_json()) > 8000, "where MLflow cuts a tag"
    assert any_registry.modules.dataset(record) == dataset


def test_what_was_never_trained_is_not_ready(registry: Registry) -> None:
    assert registry.modules.find_ready("f" * 64) is None


def test_storing_twice_gives_one_version(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    once = store_one(registry, stored)
    assert store_one(registry, stored) == once
    assert store_one(registry, stored, "another.hidden-1") == once
    assert len(versions(registry, once)) == 1


def test_storing_at_once_gives_one_version(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda _: store_one(registry, stored), range(4)))
    assert set(map(repr, records)) == {repr(records[0])}
    assert len(versions(registry, records[0])) == 1


def test_the_version_page_tells_what_the_module_is(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    run_id = registry.runs.start_module("net.hidden-1", stored.spec)
    record = registry.modules.store(
        stored.folder,
        name="net.hidden-1",
        report=report_of(stored),
        run_id=run_id,
        figures={"objective.png": PICTURE},
    )
    version = registry.backends.client.get_model_version(record.name, "1")
    assert version.run_id == record.run_id == run_id
    assert version.tags == {
        "module_id": stored.id,
        "registry": registry.backends.database.identity.id,
        "recipe_digest": stored.spec.digest(),
        "kind": "hidden",
        "network": "net",
        "dataset": "digits",
        "classes": "0, 1, 2",
        "backbone": "resnet18",
        "blocks": "stem",
        "kernel": "relu_avgpool",
        "objective": "anchor_contrastive",
        "labels": "all",
        "upstream": "data",
        "used_by": "0 networks",
    }
    assert version.description.startswith("Hidden module net.hidden-1: stem of resnet18, trained ")
    picture = f"get-artifact?path=figures%2Fobjective.png&run_uuid={run_id}"
    assert f"![figures/objective.png]({picture})" in version.description
    path = registry.backends.client.download_artifacts(run_id, "figures/objective.png")
    assert Path(path).read_bytes() == PICTURE


def test_run_and_model_show_what_the_module_reached(registry: Registry, examples: Examples) -> None:
    stored = examples.first()
    record, client = store_one(registry, stored), registry.backends.client
    run = client.get_run(record.run_id or "")
    reached = {"final.objective": 0.5, "final.validation": 0.4}
    assert reached.items() <= run.data.metrics.items()
    for name, value in reached.items():
        (point,) = client.get_metric_history(run.info.run_id, name)
        assert (point.step, point.value) == (0, value)
    history = client.get_metric_history(run.info.run_id, "objective")
    assert [(point.step, point.value) for point in history] == [(1, 0.25), (2, 0.5)]
    assert run.data.params["hidden.recipe.epochs"] == str(stored.spec.hidden.recipe.epochs)
    assert [one.model_id for one in run.outputs.model_outputs] == [record.model_id]
    model = client.get_logged_model(record.model_id or "")
    assert {metric.key: metric.value for metric in model.metrics} == reached
    assert {metric.run_id for metric in model.metrics} == {run.info.run_id}
    assert (model.status.value, model.source_run_id) == ("READY", run.info.run_id)
    assert (model.tags["module_id"], model.tags["kind"]) == (record.id, "hidden")


@pytest.mark.home("one")
def test_the_files_lie_in_the_data_sets_experiment(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    (record,) = records
    folder = kept_folder(registry, record)
    assert folder.is_relative_to(registry.settings.artifact_root / "digits")
    names = {path.name for path in folder.iterdir()}
    assert names == {WEIGHTS_FILE, SPEC_FILE, "MLmodel", "requirements.txt", "python_env.yaml"}
    requirements = (folder / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert {line.split("==")[0] for line in requirements} >= {"mlflow", "torch", "safetensors"}


@pytest.mark.parametrize("name", ["实验" * 45, ".", ".."], ids=["long", "here", "above"])
def test_an_experiment_may_have_a_name_that_no_folder_can_have(
    name: str, settings: Settings, examples: Examples
) -> None:
    with Registry.open(settings.model_copy(update={"experiment": name})) as registry:
        folder = kept_folder(registry, store_one(registry, examples.first(), "net.hidden-1"))
        assert registry.verify() == ()
    assert (folder / WEIGHTS_FILE).is_file()
    inside = folder.resolve().relative_to(settings.artifact_root.resolve())
    assert (settings.artifact_root / inside.parts[0] / "models").is_dir()


def test_a_name_that_mlflow_cannot_hold(registry: Registry, examples: Examples) -> None:
    with pytest.raises(SpecError, match=r"'Net/1' cannot name a module: use lower-case"):
        store_one(registry, examples.first(), "Net/1")
    assert registry.modules.find() == ()


def test_an_upstream_that_is_not_stored(registry: Registry, examples: Examples) -> None:
    first = examples.first()
    with pytest.raises(NotFoundError, match=f"stands on module {first.id[:12]}.*store that one"):
        store_one(registry, examples.second(first), "net.hidden-2")
    assert (registry.modules.find(), registry.verify()) == ((), ())


@pytest.mark.home("chain")
def test_finding_by_what_a_module_stands_on_and_takes(
    registry: Registry, records: tuple[ModuleRecord, ...], examples: Examples
) -> None:
    first, second, output = records
    other = store_one(registry, examples.first(seed=1))
    assert registry.modules.find() == (first, second, output, other)
    assert registry.modules.find(name="net.hidden-1") == (first, other)
    assert registry.modules.find(kind="output") == (output,)
    assert registry.modules.find(upstream=first.id) == (second,)
    assert registry.modules.find(takes=(1, 8, 8)) == (first, other)
    assert registry.modules.find(takes=(2, 8, 8), gives=(2, 8, 8), kind="hidden") == (second,)
    assert registry.modules.find(takes=(3, 8, 8)) == ()


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.home("one")
@pytest.mark.parametrize("name", [WEIGHTS_FILE, SPEC_FILE])
@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_damage_in_the_store_is_found_at_every_load(
    registry: Registry,
    records: tuple[ModuleRecord, ...],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    (record,) = records
    damage(kept_folder(registry, record) / name)
    with pytest.raises(ArtifactError, match=rf"{name}.*modkernel repair") as caught:
        registry.modules.fetch(record)
    assert "\n" not in str(caught.value)
    assert not list((registry.settings.cache_dir / "modules").iterdir())
    assert [problem.kind for problem in registry.verify()] == ["artifact"]


@pytest.mark.home("one")
@pytest.mark.parametrize("name", [WEIGHTS_FILE, SPEC_FILE])
@pytest.mark.parametrize("damage", [alter, Path.unlink])
def test_a_damaged_private_copy_is_fetched_again(
    registry: Registry,
    records: tuple[ModuleRecord, ...],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    (record,) = records
    folder = registry.modules.fetch(record).folder
    whole = (folder / name).read_bytes()
    damage(folder / name)
    assert registry.modules.fetch(record).folder == folder
    assert (folder / name).read_bytes() == whole


@pytest.mark.home("one")
def test_the_private_copy_is_a_copy(registry: Registry, records: tuple[ModuleRecord, ...]) -> None:
    alter(registry.modules.fetch(records[0]).folder / WEIGHTS_FILE)
    assert registry.verify() == ()


def test_a_second_registry_fetches_what_the_first_stored(
    registry: Registry, examples: Examples
) -> None:
    stored = examples.first()
    record = store_one(registry, stored)
    shutil.rmtree(stored.folder)
    with Registry.open(registry.settings) as again:
        assert again.modules.fetch(again.modules.resolve(record.id)).id == stored.id
