"""Deleting modules and networks, and removing what is of no use: in both stores, killed or not."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from sqlalchemy import update

from modkernel.errors import DeniedError, InUseError, NotFoundError
from modkernel.features.cache import FeatureCache, FeatureKey
from modkernel.modules.network import assemble
from modkernel.registry import Catalogue, ModuleRecord, Registry, Settings
from modkernel.registry.backends import Backends
from modkernel.registry.sql.tables import ModuleRow, NetworkRow, utc_now
from modkernel.registry.tracking.models import Models
from modkernel.registry.tracking.remains import Remains
from tests.registry.conftest import close_mlflow, seldom_postgres
from tests.registry.helpers.examples import (
    EVALUATION,
    Examples,
    store_chain,
    store_one,
    write_example_moments,
)

RAW = torch.arange(2 * 64).reshape(2, 1, 8, 8).remainder(256).byte()


def files(settings: Settings) -> set[str]:
    """What MLflow's store and the caches hold."""
    roots = (settings.artifact_root, settings.cache_dir)
    return {
        str(path.relative_to(settings.home))
        for root in roots
        for path in root.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def collect_all(registry: Registry) -> list[str]:
    kinds = []
    while found := registry.garbage():
        for garbage in found:
            registry.collect(garbage)
            kinds.append(garbage.kind)
        assert len(kinds) < 100, "it ends"
    return kinds


@pytest.mark.home("network")
@seldom_postgres
def test_what_others_stand_on_stays(any_settings: Settings) -> None:
    with Registry.open(any_settings) as registry:
        first, second, output = registry.modules.find()
        network = registry.networks.resolve("net")
        for module in (first, second, output):
            with pytest.raises(InUseError, match=r"in use by network net \(") as refused:
                registry.delete_module(module)
        refused.match("delete them first, or all at once with --with-dependents")
        found = registry.dependents([first])
        assert found.modules == (output, second)
        assert found.networks == (network,)
        registry.delete_network(network)
        assert registry.networks.find() == ()
        with pytest.raises(
            InUseError, match=r"in use by module net\.output/1, module net\.hidden-2"
        ):
            registry.delete_module(first)
        assert registry.verify() == ()


@pytest.mark.home("network")
def test_what_is_deleted_is_gone_in_both_stores_and_its_bytes_with_gc(
    settings: Settings, examples: Examples
) -> None:
    with Registry.open(settings) as registry:
        kept = registry.modules.find()
        registry.networks.load(registry.networks.resolve("net"))
        before = files(settings)
        other = store_one(registry, examples.first(seed=5), "other.hidden-1")
        write_example_moments(examples.folder / "moments", other.id)
        registry.moments.store(other, examples.folder / "moments")
        registry.modules.fetch(other)
        registry.promotions.promote("other.hidden-1", "best", 1)
        cache = FeatureCache(settings.features_dir, 10**9)
        key = FeatureKey(other.id, "data", "train", "plain", "float32")
        cache.find_or_make(key, 4, lambda: iter([torch.zeros(4, 3)]))
        registry.delete_module(other)
        with pytest.raises(NotFoundError):
            registry.modules.resolve(other.id)
        with pytest.raises(NotFoundError):
            registry.delete_module(other)
        assert registry.verify() == ()
        assert registry.repair() == (), "and it does not bring it back"
        client = registry.backends.client
        assert "other.hidden-1" not in {one.name for one in client.search_registered_models()}
        assert registry.promotions.sync() == ()
        removed = registry.promotions.history("other.hidden-1")[-1]
        assert (removed.alias, removed.before, removed.version) == ("best", 1, None)
        size = sum(garbage.size_bytes for garbage in registry.garbage())
        lost = files(settings) - before
        assert size == sum((settings.home / name).stat().st_size for name in lost) > 0
        assert sorted(collect_all(registry)) == ["copy", "copy", "features", "model", "run"]
        assert files(settings) == before
        assert client.search_runs([one.experiment_id for one in client.search_experiments()])
        with pytest.raises(Exception, match="not found"):
            client.get_run(other.run_id or "")
        again = store_one(registry, examples.first(seed=5), "other.hidden-1")
        assert (again.id, again.version) == (other.id, 1)
        assert assemble([registry.modules.fetch(one) for one in kept]).predict(RAW).shape == (2, 3)


@pytest.mark.home("chain")
def test_an_output_modules_accuracy_goes_with_it(
    registry: Registry, records: tuple[ModuleRecord, ...]
) -> None:
    first, second, output = records
    catalogue = Catalogue(registry.settings, registry.backends.database)
    assert second.id in catalogue.accuracies((second,))
    registry.delete_module(output)
    assert catalogue.accuracies((first, second)) == {}


def test_nobody_can_build_on_what_is_being_deleted(
    any_settings: Settings, examples: Examples
) -> None:
    with Registry.open(any_settings) as registry:
        first = store_one(registry, examples.first())
        with registry.backends.database.writing() as session:
            session.execute(update(ModuleRow).values(state="DELETING"))
        with pytest.raises(NotFoundError, match="not in the registry"):
            store_one(registry, examples.second(examples.first()), "net.hidden-2")
        with pytest.raises(NotFoundError):
            registry.networks.add("net", [first.id])
        (problem,) = registry.verify()
        assert problem.kind == "deleting"
        (action,) = registry.repair()
        assert action.kind == "deleted"
        assert registry.verify() == registry.modules.find() == ()


@pytest.mark.home("chain")
@pytest.mark.parametrize("refused", ["delete_model_version", "delete_logged_model"])
def test_what_mlflow_does_not_let_one_delete_stays_and_no_repair_deletes_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    output = registry.modules.resolve("net.output")

    def deny(*_: object) -> None:
        raise MlflowException("Permission denied", PERMISSION_DENIED)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, refused, deny)
        with pytest.raises(DeniedError, match="The account may not do that"):
            registry.delete_module(output)
    assert registry.modules.resolve(output.id).state == "READY"
    # Only where the version was one's own it is gone, and registered again.
    registered = ["registered"] if refused == "delete_logged_model" else []
    assert [action.kind for action in registry.repair()] == registered
    assert registry.verify() == ()
    registry.delete_module(registry.modules.resolve(output.id))
    assert len(registry.modules.find()) == 2


def test_old_versions_that_nobody_uses_go(settings: Settings, examples: Examples) -> None:
    keeping = settings.model_copy(update={"keep_versions": 1})
    with Registry.open(keeping) as registry:
        versions = [store_one(registry, examples.first(seed)) for seed in range(4)]
        with registry.backends.database.writing() as session:
            for age, record in enumerate(reversed(versions)):
                made = utc_now() - timedelta(hours=age)
                change = update(ModuleRow).where(ModuleRow.id == record.id)
                session.execute(change.values(created_at=made))
        store_one(registry, examples.second(examples.first(seed=0)), "net.hidden-2")
        registry.promotions.promote("net.hidden-1", "best", 2)
        collect_all(registry)
        left = registry.modules.find(name="net.hidden-1")
        assert sorted(one.version or 0 for one in left) == [1, 2, 4], "used, promoted, newest"
        assert registry.verify() == ()

        # One that was promoted, and is gone from MLflow, is what a repair registers again.
        registry.promotions.sync()
        registry.backends.client.delete_model_version("net.hidden-1", "2")
        store_one(registry, examples.first(seed=9))
        collect_all(registry)
        registry.repair()
        found = registry.modules.resolve("net.hidden-1@best")
        assert found.id == versions[1].id
        assert registry.verify() == ()


@pytest.mark.home("chain")
def test_old_versions_that_stand_on_each_other_are_shown_before_any_goes(
    settings: Settings, examples: Examples
) -> None:
    keeping = settings.model_copy(update={"keep_versions": 1})
    with Registry.open(keeping) as registry:
        old = registry.modules.find()
        first = examples.first(seed=1)
        second = examples.second(first, seed=1)
        new = store_chain(registry, (first, second, examples.output(second)), "net")
        registry.modules.fetch(old[0])
        shown = list(registry.garbage())
        versions = [one.id for one in shown if one.kind == "version"]
        assert versions == [one.id for one in reversed(old)], "what stands on others first"
        assert [one.kind for one in shown if Path(one.id).name == old[0].id] == ["version", "copy"]
        for garbage in shown:
            registry.collect(garbage)
        later = list(registry.garbage())
        assert {one.kind for one in later} == {"model", "run"}
        size_of_versions = sum(one.size_bytes for one in shown if one.kind == "version")
        assert sum(one.size_bytes for one in later) == size_of_versions
        for garbage in later:
            registry.collect(garbage)
        assert registry.garbage() == ()
        assert {one.id for one in registry.modules.find()} == {one.id for one in new}

        # A network, or an alias, of the top one keeps all that it stands on.
        third = examples.second(first, seed=2)
        store_chain(registry, (first, third, examples.output(third)), "net")
        registry.promotions.promote("net.output", "best", 2)
        assert [one for one in registry.garbage() if one.kind == "version"] == []
        assert registry.verify() == ()


@pytest.mark.home("chain")
def test_what_is_stored_last_is_the_newest_whatever_the_clocks_say(
    settings: Settings, examples: Examples
) -> None:
    keeping = settings.model_copy(update={"keep_versions": 1})
    with Registry.open(keeping) as registry:
        ids = [module.id for module in registry.modules.find()]
        old = store_one(registry, examples.first(seed=5), "own.hidden-1")
        network = registry.networks.add("net", ids, EVALUATION)
        fast = utc_now() + timedelta(minutes=10)
        with registry.backends.database.writing() as session:
            for row in (ModuleRow, NetworkRow):
                session.execute(update(row).values(created_at=fast))
        new = store_one(registry, examples.first(seed=6), "own.hidden-1")
        assert registry.modules.resolve("own.hidden-1").id == new.id
        assert [one.id for one in registry.garbage() if one.kind == "version"] == [old.id]
        second = examples.second(examples.first(), seed=1)
        chain = examples.first(), second, examples.output(second)
        others = [record.id for record in store_chain(registry, chain)]
        other = registry.networks.add("net", others, EVALUATION)
        assert registry.networks.resolve("net").id == other.id
        registry.networks.add("net", ids, EVALUATION)
        assert registry.networks.resolve("net").id == network.id


@pytest.fixture
def base(settings: Settings) -> Settings:
    """Of a home whose network is cached."""
    with Registry.open(settings) as registry:
        registry.networks.load(registry.networks.resolve("net"))
        collect_all(registry)
    close_mlflow(settings.mlflow_uri)
    return settings


@pytest.mark.home("network")
@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_any_instant_nothing_is_half_deleted(
    base: Settings, examples: Examples, kills: int
) -> None:
    base = base.model_copy(update={"lease_seconds": 1})
    expected, generator, seconds = files(base), random.Random(kills), 1.5
    for number in range(kills):
        forked(base, lambda registry, seed=number: fill(registry, examples, seed))  # type: ignore[misc]
        began = time.monotonic()
        if forked(base, forget, kill_after=generator.uniform(0, seconds)):
            time.sleep(1.1 * base.lease_seconds)  # Until its claims end.
        else:
            seconds = time.monotonic() - began
        forked(base, lambda registry: check_whole(registry.repair(), registry))
        assert forked(base, forget) is False
        assert files(base) == expected, f"kill {number}"
    forked(base, lambda registry: check_network(registry))


def fill(registry: Registry, examples: Examples, seed: int) -> None:
    """A chain and a network that share the first module of what is there before."""
    first = examples.first()
    chain = first, examples.second(first, seed + 1)
    chain = *chain, examples.output(chain[1])
    records = store_chain(registry, chain, "more")
    registry.networks.add("more", [record.id for record in records], EVALUATION)
    registry.modules.fetch(records[1])


def forget(registry: Registry) -> None:
    registry.repair()
    for network in registry.networks.find("more"):
        registry.delete_network(network)
    base = registry.networks.resolve("net").module_ids
    for module in reversed(registry.modules.find()):
        if module.id not in base:
            registry.delete_module(module)
    collect_all(registry)


def check_whole(_: object, registry: Registry) -> None:
    assert registry.verify() == ()
    check_network(registry)


def check_network(registry: Registry) -> None:
    network = registry.networks.load(registry.networks.resolve("net"))
    assert network.predict(RAW).shape == (2, 3)


def forked(settings: Settings, work, kill_after: float | None = None) -> bool:  # type: ignore[no-untyped-def]
    """Do something in a process of its own; whether it was killed before it was done."""
    child = os.fork()
    if child == 0:
        try:
            with Registry.open(settings) as registry:
                work(registry)
            os._exit(0)
        except BaseException:
            import traceback

            traceback.print_exc()
        os._exit(1)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) != 0


STEPS: dict[str, tuple[type, str, tuple[str, ...]]] = {
    "its model": (Backends, "discard", ("model",)),
    "its version": (Models, "delete_version", ()),
    "its name": (Remains, "delete_name_without_versions", ()),
    "its run": (Backends, "discard", ("run",)),
}
"""The steps of deleting a network: the method that each ends with, and its first argument."""


@pytest.mark.home("chain")
@pytest.mark.parametrize(
    "step",
    [
        "its run",
        *(
            pytest.param(one, marks=pytest.mark.long)
            for one in ("its version", "its model", "its name")
        ),
    ],
)
def test_a_network_is_deleted_though_the_first_attempt_was_repaired(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    class Killed(BaseException): ...

    with Registry.open(settings) as registry:
        first, second, output = registry.modules.find()
        before = files(settings)
        ids = [first.id, second.id, output.id]
        network = registry.networks.add("net", ids, EVALUATION)
        registry.promotions.promote("net", "live", 1)
        owner, method, first_argument = STEPS[step]
        original = getattr(owner, method)

        def killed(self: Any, *arguments: Any) -> Any:
            done = original(self, *arguments)
            if arguments[: len(first_argument)] == first_argument:
                raise Killed
            return done

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, killed)
            with pytest.raises(Killed):
                registry.delete_network(network)
        registry.repair()
        assert registry.verify() == ()
        again = registry.networks.resolve("net")
        assert registry.networks.load(again).predict(RAW).shape == (2, 3)
        registry.delete_network(again)
        assert registry.networks.find() == ()
        assert registry.verify() == registry.repair() == ()
        registry.promotions.sync()
        assert registry.promotions.history("net")[-1].version is None
        collect_all(registry)
        shutil.rmtree(settings.cache_dir)
        assert files(settings) == before
        assert {one.name for one in registry.backends.client.search_registered_models()} == {
            one.name for one in (first, second, output)
        }


@pytest.mark.home("network")
def test_gone_where_it_was_cached(base: Settings) -> None:
    """The private copies of modules that are there stay."""
    with Registry.open(base) as registry:
        network = registry.networks.resolve("net")
        registry.networks.load(network)
        assert collect_all(registry) == []
        assert all((Path(base.cache_dir) / "modules" / one).is_dir() for one in network.module_ids)
