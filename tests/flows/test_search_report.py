"""What is said of a search: of each stage that is done, and what the whole of it cost."""

from __future__ import annotations

from typing import Any

from modkernel.flows.runtime.results import ModuleResult, NetworkResult
from modkernel.flows.search.report import cost_sentence, stage_sentence
from modkernel.flows.search.result import CandidateResult, SearchResult, cost

NAMES = ("tanh", "relu", "rbf")


def module(name: str, seconds: float = 1.0, **fields: Any) -> ModuleResult:
    return ModuleResult(
        **(
            {"id": name, "name": name, "version": 1, "kind": "hidden", "reused": False}
            | {"seconds": seconds, "objective": None, "peak_memory_bytes": None, "run_id": None}
            | fields
        )
    )


def row(stage: int, number: int, on: str | None = None, **fields: Any) -> CandidateResult:
    """A candidate; its module's id says where it stands: '2.1' is the first one on '2'."""
    path = f"{number}" if on is None else f"{on}.{number}"
    return CandidateResult(
        **(
            {"stage": stage, "candidate": number, "description": NAMES[number - 1]}
            | {"stands_on": on, "module": module(path), "score": 0.5, "kept": False}
            | fields
        )
    )


def test_a_stage_tells_what_follows_and_on_what_the_candidate_stands_where_several_are_alike() -> (
    None
):
    first = [row(1, 1, kept=True), row(1, 2)]
    assert stage_sentence(first, "accuracy", last=False) == (
        "Stage 1: of 2 candidates, the next stage builds on tanh (accuracy 0.5)."
    )
    one_below = [*first, row(2, 1, "1"), row(2, 2, "1", kept=True)]
    assert stage_sentence(one_below, "accuracy", last=True) == (
        "Stage 2: of 2 candidates, the network is made of relu (accuracy 0.5)."
    )
    stage2 = [row(2, number, on, kept=number == 2) for on in ("1", "2") for number in (1, 2)]
    two_below = [row(1, 1, kept=True), row(1, 2, kept=True), *stage2]
    assert stage_sentence(two_below, "logme", last=False) == (
        "Stage 2: of 4 candidates, the next stage builds on relu on 'tanh' (logme 0.5); "
        "relu on 'relu' (logme 0.5)."
    )
    stage3 = [row(3, 1, "1.2"), row(3, 1, "2.2", kept=True)]
    assert stage_sentence([*two_below, *stage3], "logme", last=True) == (
        "Stage 3: of 2 candidates, the network is made of tanh on 'relu' on 'relu' (logme 0.5)."
    )


def result_of(*stages: list[CandidateResult], output: ModuleResult) -> SearchResult:
    """A search of these candidates whose network has the output module alone."""
    training_seconds, networks, networks_seconds = cost(stages)
    rows = tuple(row for stage in stages for row in stage)
    network = NetworkResult(
        id="n", name="n", modules=(output,), evaluation=None, trained_modules=0, reused_modules=0,
        seconds=0, run_id=None,
    )  # fmt: skip
    return SearchResult(
        name="found", score="accuracy", beam=1, candidates=rows, network=network,
        trained_modules=0, reused_modules=0, training_seconds=training_seconds,
        networks=networks, networks_seconds=networks_seconds, seconds=0,
    )  # fmt: skip


def test_the_cost_counts_failed_candidates_and_the_output_module_by_themselves() -> None:
    failed = row(2, 2, "1", module=None, score=None, error="not finite")
    result = result_of(
        [row(1, 1, module=module("1", 2.0, reused=True), kept=True), row(1, 2)],
        [row(2, 1, "1", module=module("1.1", 3.0), kept=True), failed],
        output=module("out", 0.25),
    )
    said = cost_sentence(result)
    assert said.startswith(
        "4 candidates were tried, 1 failed. Their 3 modules, 2 trained now and 1 reused, took "
        "6.0 s of training; the output module, trained now, took 0.2 s. All "
        "2 networks that these modules make up would take about 9 s without their output modules."
    )


def test_networks_are_of_candidates_that_could_be_trained_each_counted_once_a_stage() -> None:
    lost: dict[str, Any] = {"module": None, "score": None, "error": "not finite"}
    first = [row(1, 1), row(1, 2), row(1, 3, **lost)]
    second = [row(2, 1, "1"), row(2, 2, "1", **lost), row(2, 1, "2"), row(2, 2, "2")]
    assert cost([first]) == (2.0, 2, 4.0 / 2)
    # The second candidate could be trained on one of the two modules below it.
    assert cost([first, second])[1] == 2 * 2
    assert cost([first, [*second[:2], row(2, 2, "2", **lost)]])[1] == 2 * 1
