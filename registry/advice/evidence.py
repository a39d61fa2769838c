"""What the registry knows of modules that were trained for a task: evaluations, sizes, seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from modkernel.data import DatasetInfo
from modkernel.errors import StoreError
from modkernel.registry.advice.records import NewModule
from modkernel.registry.backends import Backends
from modkernel.registry.beside.ground_truths import GroundTruths
from modkernel.registry.records import ModuleRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import GroundTruthRow, ModuleRow, NetworkRow
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.reuse.new_module import Evidence, Forecast, forecast, verdict
from modkernel.reuse.task import Task
from modkernel.spec import HiddenModuleSpec
from modkernel.training.report import OutputEvaluation

NEWEST = 1000
"""Networks, and ground truths, that are looked at: the newest ones."""


def new_module(
    backends: Backends, task: Task, data: DatasetInfo, reached: float | None
) -> NewModule:
    """What a new module would probably reach on a task, beside what reuse reaches.

    Args:
        backends: hold the evaluations.
        task: a choice or grouping of the classes of `data`.
        data: the whole data set.
        reached: balanced accuracy by reuse; none where it is not known.
    """
    side = task.assign(data.classes)
    counts = torch.tensor(data.train_counts or (0,) * len(side))
    examples = int(counts[side >= 0].sum())
    found = forecast(gathered(backends), data.name, len(task.groups), examples)
    shown: dict[str, Any] = {"verdict": verdict(found, reached), "reached": reached}
    if not isinstance(found, Forecast):
        return NewModule(tasks=found, **shown)
    return NewModule(
        recipe=found.recipe,
        tasks=found.tasks,
        same_data=found.same_data,
        balanced_accuracy=found.accuracy,
        interval=found.interval,
        seconds=found.seconds,
        seconds_interval=found.seconds_interval,
        probability=found.probability,
        **shown,
    )


def gathered(backends: Backends) -> list[Evidence]:
    """All of it, oldest first: networks that were trained for one task, and studies' own tasks.

    A network counts where all its modules were trained on the same data, with class labels; a task
    that was evaluated again counts as it was evaluated last.
    """
    found: dict[tuple[str, ...], Evidence] = {}
    with backends.database.reading() as session:
        newest = select(NetworkRow).order_by(NetworkRow.created_at.desc()).limit(NEWEST)
        newest = newest.options(selectinload(NetworkRow.evaluations))
        for network in reversed(session.scalars(newest).all()):
            if network.evaluations:
                chain = [session.get(ModuleRow, one.module_id) for one in network.members]
                text = network.evaluations[-1].evaluation
                found |= _of_network([row for row in chain if row is not None], text)
        truths = select(GroundTruthRow).order_by(GroundTruthRow.created_at.desc()).limit(NEWEST)
        of_studies = [
            (GroundTruths.record_of(row), _chain(session, row.module_id))
            for row in reversed(session.scalars(truths).all())
        ]
        rows = [(kept, [(queries.record_of(one), one.report) for one in chain])
                for kept, chain in of_studies]  # fmt: skip
    for kept, members in rows:
        if members and all(record.state == "READY" for record, _ in members):
            with suppress(StoreError):
                truth = GroundTruths(backends).read(members[-1][0], kept)
                own = truth.spec.own
                if own is not None and _is_own(own, truth.spec, [one for one, _ in members]):
                    accuracy = truth.balanced_accuracy[truth.spec.targets.index(own)]
                    found |= _evidence(members, accuracy, len(own.groups))
    return list(found.values())


def _is_own(own: Task, spec: GroundTruthSpec, chain: Sequence[ModuleRecord]) -> bool:
    """Whether all of a chain was trained on the data of the task that it was evaluated on.

    A study trains on a part of what it evaluates on, for one of several targets: there the names of
    the classes tell. What promotions of former versions compared on other data is not its own.
    """
    facts = [record.spec.dataset for record in chain]
    if own not in spec.targets or len({one.fingerprint for one in facts}) > 1:
        return False
    if facts[0].fingerprint == spec.fingerprint:
        return True
    return len(spec.targets) > 1 and set(facts[0].classes) == set(own.groups)


def _of_network(rows: Sequence[ModuleRow], text: str) -> Mapping[tuple[str, ...], Evidence]:
    members = [(queries.record_of(row), row.report) for row in rows]
    facts = {record.spec.dataset.fingerprint for record, _ in members}
    if len(members) < 2 or len(facts) > 1:
        return {}
    evaluation = OutputEvaluation.model_validate_json(text)
    hidden = [one for one in members if one[0].kind != "output"]
    accuracy = evaluation.balanced_accuracy_all_labels
    return _evidence(hidden, accuracy, len(evaluation.per_class))


def _evidence(
    members: Sequence[tuple[ModuleRecord, str]], accuracy: float, classes: int
) -> Mapping[tuple[str, ...], Evidence]:
    """Of hidden modules, first to last, each with its report; by their ids."""
    specs = [record.spec for record, _ in members if isinstance(record.spec, HiddenModuleSpec)]
    # Trained on pairs, from another module's weights or beside others, it is no module of the
    # recipe alone.
    other = any(
        spec.dataset.pairs
        or spec.dataset.pairs_fingerprint
        or spec.hidden.start_from
        or spec.together
        for spec in specs
    )
    if len(specs) != len(members) or not specs or other:
        return {}
    report = json.loads(members[0][1])
    if not report.get("examples"):
        return {}
    one = Evidence(
        recipe=_recipe(specs, report.get("device", "cpu")),
        dataset=specs[0].dataset.name,
        classes=classes,
        examples=report["examples"],
        accuracy=accuracy,
        seconds=sum(record.seconds for record, _ in members),
    )
    return {tuple(record.id for record, _ in members): one}


def _recipe(specs: Sequence[HiddenModuleSpec], device: str) -> str:
    backbone = specs[0].backbone
    parts = [backbone.name]
    if backbone.width is not None:
        parts.append(f"width {backbone.width}")
    if backbone.name == "mlp":
        parts.append(f"depth {backbone.depth}")
    epochs = sum(spec.recipe.epochs for spec in specs)
    parts.append(f"{epochs} epoch{'' if epochs == 1 else 's'}")
    if len(specs) > 1:
        parts[-1] += f" in {len(specs)} modules"
    return ", ".join([*parts, specs[-1].hidden.objective.name, f"on {device.partition(':')[0]}"])


def _chain(session: Session, module_id: str) -> list[ModuleRow]:
    row = session.get(ModuleRow, module_id)
    if row is None:
        return []
    return [session.get_one(ModuleRow, one.member_id) for one in row.lineage]
