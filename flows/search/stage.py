"""One stage of a search: train its candidates on what was kept before it, and score them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modkernel.errors import ChildError, NonFiniteError, ScoreError, TrainingError
from modkernel.flows.plans.datasets import note
from modkernel.flows.plans.steps import Below
from modkernel.flows.runtime.events import tell
from modkernel.flows.runtime.results import ModuleResult
from modkernel.flows.search.plan import SearchPlan
from modkernel.flows.search.result import CandidateResult, describe
from modkernel.flows.search.score import score_candidate
from modkernel.flows.tasks.train import train_stored_module
from modkernel.registry import ModuleRecord, Registry
from modkernel.spec import ModuleSpec


@dataclass(frozen=True)
class Entry:
    """A candidate that was trained, or found, and scored.

    Attributes:
        row: what the report says of it.
        record: the stored module.
        chain: all modules of the chain that ends with it.
        path: its place among the candidates of its stage, after those of the modules under it.
    """

    row: CandidateResult
    record: ModuleRecord
    chain: tuple[ModuleResult, ...]
    path: tuple[int, ...]


@dataclass(frozen=True)
class StageDone:
    """What a stage gave: its best entries, best first, and a row for every candidate."""

    beam: tuple[Entry, ...]
    rows: tuple[CandidateResult, ...]


@dataclass(frozen=True)
class _Attempt:
    """A candidate on one entry of the stage before it."""

    row: CandidateResult
    module: ModuleSpec
    below: tuple[ModuleResult, ...]
    path: tuple[int, ...]


def run_stage(
    registry: Registry,
    plan: SearchPlan,
    stage: int,
    beam: Sequence[Entry],
    parent_run: Callable[[Sequence[ModuleSpec]], str | None],
) -> StageDone:
    """Train the candidates of a stage in parallel, score them, and keep the best.

    Args:
        registry: keeps every candidate.
        plan: of the search.
        stage: from 0.
        beam: what was kept of the stage before; nothing in the first.
        parent_run: MLflow run for modules of these specs.

    Raises:
        TrainingError: every candidate failed; the message has each one's reason.
        ModkernelError: what ended the training of one, but for numbers that are not finite and a
            process that died.
    """
    below: Sequence[Entry | None] = beam or [None]
    attempts = [attempt for entry in below for attempt in _attempts(plan, stage, entry)]
    run_id = parent_run([attempt.module for attempt in attempts])
    name = f"{plan.spec.name}.hidden-{stage + 1}"
    labels = [f"{name} ({'.'.join(map(str, attempt.path))})" for attempt in attempts]
    futures = []
    for label, attempt in zip(labels, attempts, strict=True):
        task = train_stored_module.with_options(task_run_name=label)
        futures.append(
            task.submit(name, attempt.module, plan.spec.dataset, None, run_id, label=label)
        )
    entries: list[Entry] = []
    failed: list[CandidateResult] = []
    for future, label, attempt in zip(futures, labels, attempts, strict=True):
        row = attempt.row
        try:
            module = future.result()
            row = row.changed(module=module)
            record = registry.modules.resolve(module.id)
            score = score_candidate(registry, record, plan.spec.dataset, plan.info, plan.spec.score)
        except (NonFiniteError, ScoreError, ChildError) as error:
            failed.append(row.changed(error=str(error)))
            tell(label, "left out")
            continue
        row = row.changed(**score._asdict())
        entries.append(Entry(row, record, (*attempt.below, module), attempt.path))
    if not entries:
        reasons = "\n".join(f"{row.description}: {row.error}" for row in failed)
        raise TrainingError(f"All candidates of stage {stage + 1} failed.\n{reasons}")
    if not all(entry.row.held_out for entry in entries):
        note(
            f"Stage {stage + 1} is compared on training examples, for want of others, which "
            "flatters every candidate: give data with more validation examples."
        )
    last = stage == len(plan.spec.stages) - 1
    best = sorted(entries, key=_score, reverse=True)[: 1 if last else plan.spec.beam]
    kept = {entry.record.id for entry in best}
    rows = [entry.row.changed(kept=entry.record.id in kept) for entry in entries]
    return StageDone(tuple(best), (*rows, *failed))


def _attempts(plan: SearchPlan, stage: int, entry: Entry | None) -> list[_Attempt]:
    candidates = plan.spec.stages[stage].candidates
    below = Below.of_data(plan.info) if entry is None else Below.of_record(entry.record)
    return [
        _Attempt(
            row=CandidateResult(
                stage=stage + 1,
                candidate=number,
                description=description,
                stands_on=None if entry is None else entry.record.id,
                module=None,
                score=None,
                kept=False,
            ),
            module=plan.module(stage, candidate, below),
            below=() if entry is None else entry.chain,
            path=(number,) if entry is None else (*entry.path, number),
        )
        for number, (candidate, description) in enumerate(
            zip(candidates, describe(candidates), strict=True), start=1
        )
    ]


def _score(entry: Entry) -> float:
    assert entry.row.score is not None
    return entry.row.score
