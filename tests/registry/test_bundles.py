"""Bundles: out of one registry, into another, and nothing is lost, doubled or half there."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from modkernel.errors import NameTakenError, NotFoundError, StoreError
from modkernel.modules.stored import StoredModule
from modkernel.registry import ModuleRecord, Registry, Settings, saga
from modkernel.registry.bundles import take_in
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from modkernel.registry.upkeep import network_versions
from modkernel.reuse.task import parse_task
from tests.modkernel.helpers.stored_examples import FACTS
from tests.registry.conftest import LONG_POSTGRES
from tests.registry.helpers.bundles import (
    FEATURES,
    HOME_PATH,
    PICTURE,
    left_files,
    rows,
)
from tests.registry.helpers.examples import EVALUATION, Examples, store_one
from tests.registry.helpers.processes import start
from tests.registry.helpers.stored_homes import BUNDLE
from tests.registry.test_advice import info, keep

pytestmark = pytest.mark.home("bundle")


@pytest.fixture
def bundle(settings: Settings, examples: Examples) -> Path:
    """That of the home's network, exported before."""
    return examples.folder / BUNDLE


@pytest.mark.parametrize("there", ["sqlite", pytest.param("postgresql", marks=LONG_POSTGRES)])
def test_a_network_goes_from_registry_to_registry_and_back(
    there: str,
    request: pytest.FixtureRequest,
    registry: Registry,
    other_settings: Settings,
    bundle: Path,
    tmp_path: Path,
) -> None:
    url = None if there == "sqlite" else request.getfixturevalue("postgres_url")
    settings = Settings(home=other_settings.home, lease_seconds=1, database_url=url)
    made, back = registry.networks.resolve("net"), tmp_path / "b"
    written = export_bundle(registry, made.id, back)
    assert back.read_bytes() == bundle.read_bytes(), "equal contents, equal bytes"
    with Registry.open(settings) as other:
        found = import_bundle(other, bundle)
        assert found.network is not None
        assert found.network_is_new
        assert (found.network.id, found.network.name) == (made.id, "net")
        assert found.network.module_ids == made.module_ids
        assert found.network.evaluation == EVALUATION
        assert (found.new, found.moments) == (set(made.module_ids), 2)
        assert [record.name for record in found.modules] == [m.name for m in written.modules]
        images = torch.randint(0, 256, (5, 1, 8, 8), dtype=torch.uint8)
        theirs, ours = (r.networks.load(r.networks.resolve("net")) for r in (other, registry))
        assert torch.equal(theirs.predict(images), ours.predict(images))
        assert other.verify() == ()
        before = rows(other)
        again = import_bundle(other, bundle)
        assert (again.new, again.moments, again.network_is_new) == (frozenset(), 0, False)
        assert (again.modules, again.network) == (found.modules, found.network)
        assert rows(other) == before
        export_bundle(other, "net", back)
        assert back.read_bytes() == bundle.read_bytes(), "nothing was lost on the way"
        assert not list(other.settings.work_dir.iterdir())


def test_all_that_belongs_to_a_module_comes_along(
    registry: Registry, other: Registry, tmp_path: Path
) -> None:
    export_bundle(registry, "net.hidden-2/1", tmp_path / "a.mkb")
    found = import_bundle(other, tmp_path / "a.mkb")
    assert [record.name for record in found.modules] == ["net.hidden-1", "net.hidden-2"]
    assert found.network is None
    assert other.networks.find() == ()
    record = found.modules[-1]
    ours = registry.modules.resolve("net.hidden-2")
    assert other.modules.report(record) == registry.modules.report(ours)
    assert record.metrics == ours.metrics
    for fingerprint, name in ((FACTS.fingerprint, "digits"), ("b" * 64, "animals")):
        kept = other.moments.get(record, fingerprint)
        assert kept is not None
        assert kept.dataset == name
        here, there = (
            r.moments.load(m, fingerprint) for r, m in ((registry, ours), (other, record))
        )
        assert torch.equal(here.train.products, there.train.products)
    training, validation = other.examples.of(record.spec.dataset) or ()
    assert (training.tolist(), validation.tolist()) == ([0, 1, 2, 3, 4, 5], [6, 7])
    client, run_id = other.backends.client, record.run_id or ""
    assert other.runs.figures(run_id) == ("figures/objective.png",)
    assert other.runs.read_file(run_id, "figures/objective.png") == PICTURE
    assert client.get_run(run_id).info.status == "FINISHED"
    assert [m.value for m in client.get_metric_history(run_id, "objective")] == [0.25, 0.5]


def test_a_path_stays_at_home(registry: Registry, tmp_path: Path) -> None:
    written = export_bundle(registry, "net", tmp_path / "a.mkb")
    assert b"somebody" not in (tmp_path / "a.mkb").read_bytes()
    assert HOME_PATH.startswith("/home/somebody")
    assert written.modules[0].dataset is not None
    assert written.modules[0].dataset.path == "birds", "a name that data_paths can give a path"


@pytest.mark.home("chain")
def test_advice_ranks_what_was_imported(
    registry: Registry, other: Registry, records: tuple[ModuleRecord, ...], tmp_path: Path
) -> None:
    for position, record in enumerate(records[:2], start=1):
        keep(registry, record, tmp_path, position, 0.2 * position, dimension=FEATURES)
        export_bundle(registry, record.id, tmp_path / "a.mkb")
        import_bundle(other, tmp_path / "a.mkb")
    here, there = (r.advice.rank(parse_task("cat, dog"), info()) for r in (registry, other))
    assert [(one.module.id, one.score) for one in there.ranked] == [
        (one.module.id, one.score) for one in here.ranked
    ]
    assert len(there.ranked) == 2


@pytest.mark.parametrize("taken", ["network", "module"])
def test_a_taken_name_is_refused_before_anything_is_stored(
    taken: str, other: Registry, examples: Examples, bundle: Path
) -> None:
    if taken == "network":  # By a module; else the name of the second module by a network.
        store_one(other, examples.first(7), "net")
    else:
        other.networks.add("net.hidden-2", [store_one(other, examples.first(7), "own").id])
    before, runs = rows(other), _runs(other)
    with pytest.raises(NameTakenError):
        import_bundle(other, bundle)
    assert (rows(other), _runs(other)) == (before, runs)


def test_a_name_that_is_taken_meanwhile_leaves_no_run_open(
    other: Registry, examples: Examples, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_one(other, examples.first(7), "net")
    monkeypatch.setattr(take_in, "_check_names", lambda *_: None)
    with pytest.raises(NameTakenError):
        import_bundle(other, bundle)
    assert sorted(_runs(other)) == ["FAILED", "FINISHED", "FINISHED", "FINISHED", "FINISHED"]


def test_importing_again_completes_a_network_whose_import_broke_off(
    registry: Registry, other: Registry, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StoreError("MLflow does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(network_versions, "complete", fail)
        with pytest.raises(StoreError, match="does not answer"):
            import_bundle(other, bundle)
    assert "RUNNING" in _runs(other)
    found = import_bundle(other, bundle)
    assert found.network is not None
    assert (found.network.version, found.network_is_new) == (1, False)
    assert other.networks.resolve("net/1").id == registry.networks.resolve("net").id
    assert _runs(other) == ["FINISHED"] * 4
    assert (other.verify(), other.repair()) == ((), ())


def _runs(registry: Registry) -> list[str]:
    """The states of all runs."""
    client = registry.backends.client
    return [
        run.info.status
        for experiment in client.search_experiments()
        for run in client.search_runs([experiment.experiment_id])
    ]


@pytest.mark.home("empty")
def test_what_nobody_stored_is_not_exported(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"No module answers to 'net'.* No network"):
        export_bundle(registry, "net", tmp_path / "a.mkb")
    assert not list(tmp_path.glob("*.mkb"))


def _import_and_die(settings: Settings, file: Path, module_id: str) -> None:
    finish = saga.finish

    def finish_or_die(backends: object, record: StoredModule, *rest: object) -> object:
        if record.id == module_id:
            os.kill(os.getpid(), signal.SIGKILL)
        return finish(backends, record, *rest)  # type: ignore[arg-type]

    saga.finish = finish_or_die  # type: ignore[assignment]
    with Registry.open(settings) as registry:
        import_bundle(registry, file)


@pytest.mark.long
def test_an_import_that_is_killed_goes_on(
    registry: Registry, other_settings: Settings, bundle: Path
) -> None:
    made = registry.networks.resolve("net")
    process = start(_import_and_die, other_settings, bundle, made.module_ids[1])
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with Registry.open(other_settings) as other:
        assert other.networks.find() == ()
        assert [record.name for record in other.modules.find()] == ["net.hidden-1"]
        assert left_files(other), "what it was at is there yet"
        found = import_bundle(other, bundle)
        assert found.new == set(made.module_ids[1:])
        assert found.network is not None
        assert found.network.id == made.id
        assert (other.verify(), other.repair()) == ((), ())
        assert not list(other.settings.work_dir.iterdir())
        assert [record.version for record in found.modules] == [1, 1, 1]
