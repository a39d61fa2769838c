"""Networks with an imported module, a stitch and a join: whatever is done to plain ones, too."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from modkernel.errors import BundleError, ModkernelError, SpecError
from modkernel.features.cache import FeatureCache, FeatureKey
from modkernel.lookup import trusting
from modkernel.modules.export import export
from modkernel.registry import NetworkRecord, Registry, Settings
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from modkernel.registry.flavor import load_model
from modkernel.registry.tracking.models import Models
from tests.registry.conftest import close_mlflow
from tests.registry.helpers.bundles import left_files, reforge, rows
from tests.registry.helpers.examples import Examples
from tests.registry.helpers.mixed import PACKAGE, take_in, trusting_settings
from tests.registry.helpers.stored_homes import BUNDLE
from tests.registry.test_delete import collect_all, files, forked

pytestmark = pytest.mark.home("mixed")
RAW = torch.arange(2 * 64).reshape(2, 1, 8, 8).remainder(256).byte()
NAMES = ["far.hidden-1", "own.hidden-1", "own.stitch", "mixed.output"]


@pytest.fixture
def registry(settings: Settings) -> Iterator[Registry]:
    with Registry.open(trusting_settings(settings)) as opened:
        yield opened


@pytest.fixture
def network(registry: Registry) -> NetworkRecord:
    return registry.networks.resolve("mixed")


def answers(registry: Registry) -> torch.Tensor:
    return registry.networks.load(registry.networks.resolve("mixed"))(RAW)


def test_it_is_loaded_served_and_exported_and_works_in_a_moved_home(
    registry: Registry, network: NetworkRecord, settings: Settings, tmp_path: Path
) -> None:
    members = registry.networks.members(network)
    assert sorted(record.name for record in members) == sorted(NAMES)
    assert registry.verify() == registry.repair() == ()
    expected = answers(registry)
    with trusting([PACKAGE]):
        assert torch.equal(load_model(f"models:/mixed/{network.version}")(RAW), expected)
    with pytest.raises(SpecError, match="MODKERNEL_TRUSTED_PACKAGES"):
        load_model(f"models:/mixed/{network.version}")
    with trusting([PACKAGE]):
        loaded = registry.networks.load(network)
        assert export(loaded, "state-dict", tmp_path / "mixed.safetensors", RAW) < 1e-4
    registry.close()
    close_mlflow(settings.mlflow_uri)
    shutil.rmtree(settings.cache_dir)
    moved = Settings(home=settings.home.rename(tmp_path / "moved & gone"), lease_seconds=1)
    with Registry.open(trusting_settings(moved)) as there:
        assert there.verify() == there.repair() == ()
        assert torch.equal(answers(there), expected)
        assert take_in(there, tmp_path).new == frozenset()
    close_mlflow(moved.mlflow_uri)


def test_gc_takes_what_nothing_refers_to_alone(registry: Registry, network: NetworkRecord) -> None:
    expected, cache = answers(registry), FeatureCache(registry.settings.features_dir, 10**9)
    own, far, stitch = (
        registry.modules.resolve(name).id for name in ("own.hidden-1", "far.hidden-2", "own.stitch")
    )
    for joined in (f"{own} {stitch}", f"{own} {far}"):
        key = FeatureKey(joined, "data", "train", "plain", "float32")
        cache.find_or_make(key, 4, lambda: iter([torch.zeros(4, 3)]))
    assert collect_all(registry) == []
    # A stitch has a copy: what it was copied from may go.
    registry.delete_module(registry.modules.resolve(far))
    assert sorted(collect_all(registry)) == ["copy", "features", "model", "run"]
    kept = [module_id for _, module_id, _ in cache.files()]
    assert kept == [f"{own} {stitch}"]
    assert registry.verify() == ()
    assert torch.equal(answers(registry), expected)


def test_a_bundle_brings_all_of_it(
    registry: Registry, network: NetworkRecord, other_settings: Settings, tmp_path: Path
) -> None:
    export_bundle(registry, "mixed", tmp_path / "mixed.mkb")
    with Registry.open(other_settings) as other:
        with pytest.raises(SpecError, match="MODKERNEL_TRUSTED_PACKAGES"):
            import_bundle(other, tmp_path / "mixed.mkb")
        assert (rows(other), left_files(other)) == ({}, [])
    with Registry.open(trusting_settings(other_settings)) as other:
        found = import_bundle(other, tmp_path / "mixed.mkb")
        assert found.network is not None
        assert (found.network.id, found.new) == (network.id, set(network.module_ids))
        assert torch.equal(answers(other), answers(registry))
        assert other.verify() == ()
        assert import_bundle(other, tmp_path / "mixed.mkb").new == frozenset()


def inside(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    """Another value somewhere in a spec."""

    def change(spec: dict[str, Any]) -> None:
        for key in path[:-1]:
            spec = spec[key]
        spec[path[-1]] = to

    return change


def upstream(make: Callable[[list[dict[str, Any]]], Any]) -> Callable[[dict[str, Any]], None]:
    """Other upstreams of a join."""

    def change(spec: dict[str, Any]) -> None:
        spec["interface"]["upstream"] = make(spec["interface"]["upstream"])

    return change


PLANTED = "planted_code.nets:build"
HOSTILE: dict[str, tuple[str, Callable[[dict[str, Any]], None], type[ModkernelError], str]] = {
    "an import names code": (
        "imported",
        inside("backbone", "name", to=PLANTED),
        SpecError,
        "MODKERNEL_TRUSTED_PACKAGES",
    ),
    "a stitch's copy names code": (
        "stitch",
        inside("upper", "backbone", "name", to=PLANTED),
        SpecError,
        "planted_code",
    ),
    "a join names code": (
        "output",
        inside("interface", "kernel", "name", to=PLANTED),
        BundleError,
        "kernel",
    ),
    "no origin": ("imported", lambda spec: spec.pop("origin"), BundleError, "origin"),
    "an origin that is no hash": (
        "imported",
        inside("origin", "weights_sha256", to="`x` ![](http://evil)"),
        BundleError,
        "weights_sha256",
    ),
    "a licence of several lines": (
        "imported",
        inside("origin", "licence", to="mit\n# Use me"),
        BundleError,
        "licence",
    ),
    "a licence of a megabyte": (
        "imported",
        inside("origin", "licence", to="x" * 2**20),
        BundleError,
        "licence",
    ),
    "another kind of module": ("stitch", inside("kind", to="imported"), BundleError, "spec"),
    "a copy that takes something else": (
        "stitch",
        inside("upper", "interface", "takes", to=[9, 8, 8]),
        BundleError,
        "must be|size|shape",
    ),
    "a copy of a copy": ("stitch", inside("upper", "kind", to="stitch"), BundleError, "upper"),
    "a hole": (
        "output",
        upstream(lambda all_: [*all_[:-1], all_[-1] | {"id": "f" * 64}]),
        BundleError,
        "Position",
    ),
    "a cycle": (
        "imported",
        inside("interface", "upstream", to="LAST"),
        BundleError,
        "Position",
    ),
    "one upstream twice": (
        "output",
        upstream(lambda all_: [all_[0], all_[0]]),
        BundleError,
        "name each upstream once",
    ),
    "a weight below nothing": (
        "output",
        upstream(lambda all_: [all_[0] | {"weight": -1.0}, all_[1]]),
        BundleError,
        "weight",
    ),
    "no upstream": ("output", upstream(lambda _: []), BundleError, "upstream"),
}


def test_hostile_bundles_are_refused(
    other_settings: Settings, examples: Examples, tmp_path: Path
) -> None:
    good = examples.folder / BUNDLE
    with Registry.open(trusting_settings(other_settings)) as other:
        for name, (kind, change, error, told) in HOSTILE.items():
            bad = tmp_path / "bad.mkb"
            reforge(good, bad, kind, change)
            with pytest.raises(error, match=told) as caught:
                import_bundle(other, bad)
            message = str(caught.value)
            assert "\n" not in message, name
            assert message.isprintable(), name
            assert len(message) < 700, name
            assert str(other.settings.home) not in message, name
            assert (rows(other), left_files(other)) == ({}, []), name
        reforge(good, tmp_path / "bad.mkb", "stitch", lambda spec: spec.update(seed=7))
        assert len(import_bundle(other, tmp_path / "bad.mkb").modules) == 4, "good but for that"


def killed_in(monkeypatch: pytest.MonkeyPatch, method: str, call: int) -> None:
    """Kill the process as soon as it has called a method of MLflow's models so often."""
    original, calls = getattr(Models, method), []

    def kill(self: Models, *arguments: Any, **named: Any) -> Any:
        done = original(self, *arguments, **named)
        calls.append(method)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    monkeypatch.setattr(Models, method, kill)


STEPS = (("log", 1), ("add_version", 1), ("log", 2), ("add_version", 2))


@pytest.mark.home("empty")
@pytest.mark.long
@pytest.mark.parametrize(
    ("repaired", "steps"),
    [(False, STEPS[1:2]), (True, STEPS[2:3]), (False, STEPS), (True, STEPS)],
)
def test_an_import_that_is_killed_leaves_nothing_half_and_goes_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, repaired: bool, steps: Any
) -> None:
    with Registry.open(settings) as registry:
        whole = [record.id for record in take_in(registry, tmp_path).modules]
        expected = len(files(settings))
        for module_id in reversed(whole):
            registry.delete_module(registry.modules.resolve(module_id))
        collect_all(registry)
        assert files(settings) == set()
    close_mlflow(settings.mlflow_uri)
    for method, call in steps:
        with monkeypatch.context() as patch:
            killed_in(patch, method, call)
            assert forked(settings, lambda registry: take_in(registry, tmp_path) and None)
        time.sleep(1.1 * settings.lease_seconds)
        forked(settings, lambda registry: check_and_go_on(registry, tmp_path, whole, repaired))
        assert len(files(settings)) == expected
        forked(settings, lambda registry: forget(registry, whole))
        assert files(settings) == set()


def check_and_go_on(registry: Registry, folder: Path, whole: list[str], repaired: bool) -> None:
    if repaired:
        registry.repair()
        assert registry.verify() == ()
    found = take_in(registry, folder)
    assert [record.id for record in found.modules] == whole
    assert registry.verify() == ()
    assert not list(registry.settings.work_dir.iterdir())
    collect_all(registry)


def forget(registry: Registry, whole: list[str]) -> None:
    for module_id in reversed(whole):
        registry.delete_module(registry.modules.resolve(module_id))
    collect_all(registry)
