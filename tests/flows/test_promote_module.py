"""What a module is compared on with the one that an alias means, and what a decision is on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from prefect import flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow
from prefect.states import Scheduled
from sklearn.datasets import load_digits
from sqlalchemy import delete

from modkernel.data import DatasetInfo, load_dataset
from modkernel.flows.plans import datasets
from modkernel.flows.stored_modules import promote_module as promoting
from modkernel.flows.stored_modules.promote_module import (
    Asked,
    Decision,
    _compared,
    _page,
    promote_module,
)
from modkernel.registry import Registry
from modkernel.registry.sql.tables import ExamplesRow
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.spec import DatasetSpec
from tests.flows.helpers.specs import tiny
from tests.flows.helpers.trained import store_modules
from tests.registry.test_advice import info

HIDDEN = "net.hidden-1"

OWN = {"ten": "a" * 64, "two": "b" * 64}
"""Fingerprints of the data that each module was trained on."""
SEEN = {"ten": 0, "two": 7}


@pytest.mark.parametrize("given", [None, DatasetSpec(name="fashion_mnist")])
def test_both_modules_are_compared_on_the_same_data(
    monkeypatch: pytest.MonkeyPatch, given: DatasetSpec | None
) -> None:
    candidate, present = (_module(name) for name in ("ten", "two"))
    asked: list[tuple[GroundTruthSpec, DatasetSpec]] = []

    def data_of(
        _: object, top: Any, dataset: DatasetSpec | None
    ) -> tuple[DatasetSpec, DatasetInfo]:
        if dataset is not None:
            return dataset, info(fingerprint="c" * 64, n_test=100)
        return DatasetSpec(name=top.id), info(fingerprint=OWN[top.id], n_test=100)

    def measured(_: str, spec: GroundTruthSpec, dataset: DatasetSpec) -> tuple[bool, Any]:
        asked.append((spec, dataset))
        figures = dict.fromkeys(("accuracy", "balanced_accuracy", "worst_accuracy"), (0.5,))
        return True, SimpleNamespace(**figures, left_out=SEEN[spec.module_id], seen=0)

    monkeypatch.setattr(datasets, "for_chain", data_of)
    monkeypatch.setattr(datasets, "check_chain_trusted", lambda *_: None)
    monkeypatch.setattr(datasets, "check_fits", lambda *_: None)
    monkeypatch.setattr(promoting, "measure_stored_ground_truth", measured)
    registry: Any = None
    both = _compared(registry, candidate, present, given)
    assert [spec.module_id for spec, _ in asked] == ["ten", "two"]
    assert {dataset for _, dataset in asked} == {given or DatasetSpec(name="ten")}
    assert len({spec.fingerprint for spec, _ in asked}) == 1
    # Its own task is evidence of what training reaches: only on the data that it was trained on.
    (task,) = asked[0][0].targets
    assert [spec.own for spec, _ in asked] == [task if given is None else None, None]
    page = _page("production", both)
    assert "93 of 100" in page
    assert "100 of 100" in page
    assert "may be compared on different ones" in page
    assert "different ones" not in _page("production", both.changed(present=None))


@pytest.mark.parametrize("known", [True, False])
def test_the_page_says_where_a_module_knows_what_it_is_compared_on_or_may_know_it(
    registry: Registry, tmp_path: Path, known: bool
) -> None:
    rows = load_digits()
    pixels, labels = rows.data.astype(np.float32), rows.target
    trained = DatasetSpec(name="arrays", path=str(tmp_path / "all.npz"))
    np.savez(tmp_path / "all.npz", x=pixels, y=labels)
    spec = tiny("net", epochs=(1,)).changed(dataset=trained, output=None)
    (candidate,) = store_modules(registry, spec)
    data = load_dataset(trained, registry.settings.places)
    seen, new = (np.array([int(one) for one in part.ids]) for part in (data.train, data.test))
    tested = {"x_test": pixels[seen[:50]], "y_test": labels[seen[:50]]}
    np.savez(tmp_path / "golden.npz", x=pixels[new], y=labels[new], **tested)
    if not known:
        with registry.backends.database.writing() as session:
            session.execute(delete(ExamplesRow))

    @flow
    def compared() -> Asked:
        golden = DatasetSpec(name="arrays", path=str(tmp_path / "golden.npz"))
        return _compared(registry, candidate, None, golden)

    asked = compared()
    assert (asked.candidate.tested, asked.candidate.seen) == (50, 50 if known else None)
    page = _page("production", asked)
    assert ("trained or validated on all of the test examples" in page) is known
    assert ("It is not known of all examples that net.hidden-1/1" in page) is not known


@pytest.fixture
def gated(with_net: Registry, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Two versions of a module, the first of them in production; figures come without training."""

    def measured(_: str, spec: GroundTruthSpec, dataset: DatasetSpec) -> tuple[bool, Any]:
        figures = dict.fromkeys(("accuracy", "balanced_accuracy", "worst_accuracy"), (0.5,))
        return True, SimpleNamespace(**figures, left_out=0, seen=0)

    monkeypatch.setattr(promoting, "measure_stored_ground_truth", measured)
    assert _another(with_net, 2) == 2
    with_net.promotions.promote(HIDDEN, "production", 1)
    return with_net


@pytest.fixture
def client(gated: Registry) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def test_what_was_shown_is_promoted_though_a_newer_version_came(
    gated: Registry, client: SyncPrefectClient
) -> None:
    run = _asked(client, HIDDEN)
    assert _another(gated, 3) == 3
    assert _decided(client, run, promote=True, comment="it does better").is_completed()
    last = gated.promotions.history(HIDDEN)[-1]
    assert (last.version, last.before, last.reason) == (2, 1, "it does better")


@pytest.mark.parametrize("moved", [3, None])
def test_an_alias_that_was_moved_meanwhile_stays_and_a_retry_asks_anew(
    gated: Registry, client: SyncPrefectClient, moved: int | None
) -> None:
    run = _asked(client, f"{HIDDEN}/2")
    _another(gated, 3)
    if moved is None:
        gated.promotions.demote(HIDDEN, "production")
    else:
        gated.promotions.promote(HIDDEN, "production", moved)
    state = _decided(client, run, promote=True)
    now = "nothing" if moved is None else f"{HIDDEN}/{moved}"
    assert state.is_failed()
    assert f"@production means {now} by now" in str(state.message)
    assert f"taken beside {HIDDEN}/1" in str(state.message)
    assert gated.promotions.history(HIDDEN)[-1].version == moved
    client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"))
    assert _run(client, run).is_paused(), "the answer was to another question"
    assert _decided(client, run, promote=True).is_completed()
    last = gated.promotions.history(HIDDEN)[-1]
    assert (last.version, last.before) == (2, moved)


def test_a_decision_not_to_promote_leaves_an_alias_that_was_moved(
    gated: Registry, client: SyncPrefectClient
) -> None:
    run = _asked(client, f"{HIDDEN}/2")
    gated.promotions.demote(HIDDEN, "production")
    assert _decided(client, run, promote=False).is_completed()
    assert gated.promotions.history(HIDDEN)[-1].version is None


def test_a_run_that_a_former_version_suspended_asks_once_more(
    gated: Registry, client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as former:
        former.setattr(promoting, "PAUSE", "decision")
        former.setattr(promoting, "_keep", lambda _: None)
        run = _asked(client, HIDDEN)
    assert _another(gated, 3) == 3
    assert _decided(client, run, promote=True).is_paused()
    assert gated.promotions.history(HIDDEN)[-1].version == 1
    assert _decided(client, run, promote=True).is_completed()
    assert gated.promotions.history(HIDDEN)[-1].version == 3


def _another(registry: Registry, seed: int) -> int | None:
    """One more version of the module that the gate is for."""
    return store_modules(registry, tiny("net", (1,), seed).changed(output=None))[0].version


def _asked(client: SyncPrefectClient, module: str) -> UUID:
    """A run of the gate that waits for its decision; Prefect suspends runs of deployments only."""
    gate = client.create_deployment(client.create_flow(promote_module), "gate")
    asked = {"module": module, "alias": "production"}
    run = client.create_flow_run_from_deployment(gate, parameters=asked).id
    assert _run(client, run).is_paused()
    return run


def _decided(client: SyncPrefectClient, run: UUID, **decision: Any) -> State:
    """What becomes of a run that waits, once somebody has answered it."""
    answer = Decision(**decision).model_dump(mode="json")
    client.resume_flow_run(run, run_input=answer)
    return _run(client, run)


def _run(client: SyncPrefectClient, run: UUID) -> State:
    """Run it from the top, as each process of a deployment does."""
    with suppress(Pause):
        run_flow(promote_module, flow_run=client.read_flow_run(run), return_type="state")
    state = client.read_flow_run(run).state
    assert state is not None
    return state


def _module(name: str) -> Any:
    trained_on = SimpleNamespace(fingerprint=OWN[name])
    return SimpleNamespace(id=name, name=name, version=1, spec=SimpleNamespace(dataset=trained_on))
