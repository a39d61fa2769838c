"""Measuring stored modules: once each, whoever asks, and whatever is wrong with another one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL

from modkernel.errors import DataError, InterfaceError, NotFoundError
from modkernel.features.cache import FeatureCache
from modkernel.features.measure import measured_features
from modkernel.flows.measure_modules import MeasureResult, measure_modules
from modkernel.flows.plans import datasets
from modkernel.flows.runtime.events import Event, Planned, StateChanged, watch
from modkernel.flows.tasks.measure import label, measure_stored_module
from modkernel.flows.train_network import train_network
from modkernel.registry import Registry
from modkernel.registry.backends import feature_cache
from modkernel.spec import DatasetSpec
from tests.flows.helpers.specs import tiny

WHOLE = DatasetSpec()
FEW = DatasetSpec(classes=("3", "1", "4"))


@flow
def measure_one(module_id: str, features: bool) -> bool:
    return bool(measure_stored_module(module_id, WHOLE, features))


def test_modules_are_measured_once_on_each_data_set(
    with_net: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, ids = with_net, with_net.networks.resolve("net").module_ids[:2]
    own = datasets.describe(registry, WHOLE).fingerprint
    assert registry.moments.load(registry.modules.resolve(ids[1]), own).train.examples > 1000
    whole = measure_modules(WHOLE)
    assert set(whole.found) == set(ids), "measured when they were trained"
    assert not whole.measured

    events: list[Event] = []
    with watch(events.append):
        first = measure_modules(FEW)
    fingerprint = datasets.describe(registry, FEW).fingerprint
    assert first.fingerprint == fingerprint
    assert set(first.measured) == set(ids)
    records = [registry.modules.resolve(id) for id in ids]
    for record in records:
        moments = registry.moments.load(record, fingerprint)
        assert (moments.module_id, moments.train.classes) == (record.id, FEW.classes)
    assert not list(registry.settings.work_dir.iterdir()), "work folders go"

    names = {label(record) for record in records}
    assert isinstance(events[0], Planned)
    assert set(events[0].modules) == names
    for name in names:
        states = [e.state for e in events if isinstance(e, StateChanged) and e.module == name]
        assert states[-2:] == ["measuring", "stored"]

    second = measure_modules(FEW, ("net.hidden-2",))
    assert second == MeasureResult(
        fingerprint=fingerprint, measured=(), found=(ids[1],), left_out=()
    )

    # In a team, too, features are measured where they are wanted: others keep theirs.
    for name, value in {"sends_work": True, "is_worth_it": True, "send": None}.items():
        monkeypatch.setattr(f"modkernel.flows.tasks.once.{name}", lambda *_, value=value: value)
    shutil.rmtree(registry.settings.cache_dir / "features")
    assert measure_modules(FEW, ("net.hidden-2",), features=True).measured == (ids[1],)
    assert measured_features(feature_cache(registry.settings), ids[1], fingerprint) is not None


def test_what_one_module_cannot_do_hinders_no_other(with_net: Registry) -> None:
    registry = with_net
    good, record = (registry.modules.resolve(f"net.hidden-{k}") for k in (1, 2))
    stored = registry.modules.fetch(record)
    (stored.folder / "weights.safetensors").write_bytes(b"altered")
    assert record.model_id is not None
    client = registry.backends.client
    kept = client.get_logged_model(record.model_id).artifact_location.removeprefix("file://")
    Path(kept, "weights.safetensors").write_bytes(b"altered")
    found = measure_modules(FEW)
    assert found.measured == (good.id,)
    (left_out,) = found.left_out
    assert left_out.module_id == record.id
    assert "weights.safetensors" in left_out.reason


def test_another_shape_is_left_out_and_what_cannot_be_is_refused(with_net: Registry) -> None:
    small = measure_modules(DatasetSpec(image_size=4))
    assert not small.measured
    assert len(small.left_out) == 2
    assert all("image_size: 8" in one.reason for one in small.left_out)
    for error, modules in [(NotFoundError, ("nobody",)), (InterfaceError, ("net.output",))]:
        with pytest.raises(error):
            measure_modules(FEW, modules)
    with pytest.raises(DataError):
        measure_modules(DatasetSpec(classes=("3",)))


@pytest.mark.long
def test_features_that_were_evicted_are_computed_again_where_they_are_asked_for(
    registry: Registry,
) -> None:
    module = train_network(tiny("base").changed(output=None)).modules[0]
    cache = FeatureCache(registry.settings.features_dir, registry.settings.feature_cache_bytes)
    fingerprint = datasets.describe(registry, WHOLE).fingerprint
    assert measured_features(cache, module.id, fingerprint) is not None
    for file in cache.folder.iterdir():
        file.unlink()
    assert not measure_one(module.id, features=False)
    assert measured_features(cache, module.id, fingerprint) is None
    assert measure_one(module.id, features=True)
    assert measured_features(cache, module.id, fingerprint) is not None


@pytest.mark.long
def test_what_is_found_takes_no_folder_from_who_works_in_it(registry: Registry) -> None:
    spec = tiny("base").changed(output=None)
    (digest,) = {
        registry.modules.resolve(m.id).recipe_digest for m in train_network(spec).modules[:1]
    }
    result = registry.settings.work_dir / digest / "result"
    result.mkdir(parents=True)
    claim = registry.claim(digest, "who still stores it")
    assert claim is not None
    with claim:
        assert train_network(spec).trained_modules == 0
        assert result.is_dir()
    assert train_network(spec).trained_modules == 0
    assert not result.exists()
    assert registry.claim(digest, "the next") is not None, "released"


@pytest.mark.long
def test_two_processes_measure_each_module_once(registry: Registry, tmp_path: Path) -> None:
    trained = train_network(tiny("both", epochs=(1, 1, 1)))
    source, result = tmp_path / "dataset.json", tmp_path / "result.json"
    source.write_text(FEW.canonical_json())
    with (tmp_path / "flow.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.flows.helpers.run_measure", str(source), str(result)],
            env={**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    mine = measure_modules(FEW)
    assert process.wait(120) == 0, (tmp_path / "flow.log").read_text()
    other = MeasureResult.model_validate_json(result.read_bytes())
    hidden = sorted(module.id for module in trained.modules[:3])
    assert sorted(mine.measured + other.measured) == hidden, "each by one of the two"
    for done in (mine, other):
        assert sorted(done.measured + done.found) == hidden
        assert not done.left_out
