"""What the registry knows of modules that were trained for a task: evaluations, sizes, seconds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session, selectinload

from modkernel.data import DatasetInfo
from modkernel.errors import StoreError
from modkernel.registry.advice.records import NewModule
from modkernel.registry.advice.shelf import everybody_has_alike
from modkernel.registry.backends import Backends
from modkernel.registry.beside.examples import SeenExamples
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
MOST = 0.5
"""Share of the smaller data set's training examples above which two are one that has changed."""


@dataclass(frozen=True)
class _Found:
    fingerprint: str
    """Of the data."""
    what: tuple[str, ...]
    """What tells it from other evidence on the same data: their classes and the recipe."""
    evidence: Evidence


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
    known_by = _known_by(data.name, data.fingerprint)
    found = forecast(gathered(backends), known_by, len(task.groups), examples)
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

    A network counts where all its modules were trained on the same data, with class labels, each on
    the one before it. A task that was evaluated again, or trained again with another seed, counts
    as it was evaluated last; so does one of data that have grown, or were changed a little.
    """
    found: list[_Found] = []
    with backends.database.reading() as session:
        newest = select(NetworkRow).order_by(NetworkRow.created_at.desc()).limit(NEWEST)
        newest = newest.options(selectinload(NetworkRow.evaluations))
        for network in reversed(session.scalars(newest).all()):
            if network.evaluations:
                chain = [session.get(ModuleRow, one.module_id) for one in network.members]
                text = network.evaluations[-1].evaluation
                found += _of_network([row for row in chain if row is not None], text)
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
                    found += _evidence(members, accuracy, len(own.groups))
    latest: dict[tuple[str, ...], _Found] = {}
    for one in found:
        key = (one.fingerprint, *one.what)
        latest.pop(key, None)  # It moves to the end: order tells which is more recent.
        latest[key] = one
    counted = _newest(list(latest.values()), SeenExamples(backends))
    return [one.evidence for one in counted]


def _newest(found: Sequence[_Found], examples: SeenExamples) -> list[_Found]:
    """Evidence, oldest first, without what a newer one has on most of the same examples.

    Else the versions of one folder that grows would count as many tasks, and make the interval
    narrow. Data whose examples are not remembered count as they are.
    """
    versions = Counter(one.what for one in found)
    newer: defaultdict[tuple[str, ...], list[np.ndarray]] = defaultdict(list)
    kept = []
    for one in reversed(found):
        known = examples.digests(one.fingerprint) if versions[one.what] > 1 else None
        if known is not None:
            if any(_is_most(known[0], other) for other in newer[one.what]):
                continue
            newer[one.what].append(known[0])
        kept.append(one)
    return kept[::-1]


def _is_most(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two sets share most of the digests of the smaller one; both are sorted."""
    small, large = sorted((one, other), key=len)
    places = np.searchsorted(large, small).clip(max=len(large) - 1)
    return bool(len(small)) and float((large[places] == small).mean()) > MOST


def _known_by(name: str, fingerprint: str) -> str:
    """What tells a data set from others: its name, where that says what is in it."""
    return name if everybody_has_alike(name) else fingerprint


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


def _of_network(rows: Sequence[ModuleRow], text: str) -> list[_Found]:
    members = [(queries.record_of(row), row.report) for row in rows]
    facts = {record.spec.dataset.fingerprint for record, _ in members}
    if len(members) < 2 or len(facts) > 1 or not _is_chain([record for record, _ in members]):
        return []
    evaluation = OutputEvaluation.model_validate_json(text)
    hidden = [one for one in members if one[0].kind != "output"]
    accuracy = evaluation.balanced_accuracy_all_labels
    return _evidence(hidden, accuracy, len(evaluation.per_class))


def _evidence(
    members: Sequence[tuple[ModuleRecord, str]], accuracy: float, classes: int
) -> list[_Found]:
    """Of hidden modules, first to last, each with its report; nothing where they tell nothing."""
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
    is_chain = _is_chain([record for record, _ in members])
    if len(specs) != len(members) or not specs or other or not is_chain:
        return []
    report = json.loads(members[0][1])
    if not report.get("examples"):
        return []
    data = specs[0].dataset
    one = Evidence(
        recipe=_recipe(specs, report.get("device", "cpu")),
        dataset=_known_by(data.name, data.fingerprint),
        classes=classes,
        examples=report["examples"],
        accuracy=accuracy,
        seconds=sum(record.seconds for record, _ in members),
        digest=_digest(specs),
    )
    return [_Found(data.fingerprint, (*data.classes, one.recipe, one.digest), one)]


def _is_chain(records: Sequence[ModuleRecord]) -> bool:
    """Whether each module stands on the one before it alone."""
    return all(
        after.spec.interface.stands_on == (before.id,) for before, after in pairwise(records)
    )


def _recipe(specs: Sequence[HiddenModuleSpec], device: str) -> str:
    backbone = specs[0].backbone
    parts = [backbone.name]
    if backbone.width is not None:
        parts.append(f"width {backbone.width}")
    if backbone.name == "mlp":
        parts.append(f"depth {backbone.depth}")
    parts.append(f"up to {specs[-1].blocks[-1]}")
    epochs = sum(spec.recipe.epochs for spec in specs)
    parts.append(f"{epochs} epoch{'' if epochs == 1 else 's'}")
    if len(specs) > 1:
        parts[-1] += f" in {len(specs)} modules"
    return ", ".join([*parts, specs[-1].hidden.objective.name, f"on {device.partition(':')[0]}"])


def _digest(specs: Sequence[HiddenModuleSpec]) -> str:
    """Of all that was chosen: what it was trained on and the seed are no part of a recipe."""
    fields = {"backbone", "blocks", "hidden"}
    chosen = [spec.model_dump(mode="json", include=fields) for spec in specs]
    return hashlib.sha256(json.dumps(chosen, sort_keys=True).encode()).hexdigest()


def _chain(session: Session, module_id: str) -> list[ModuleRow]:
    row = session.get(ModuleRow, module_id)
    if row is None:
        return []
    return [session.get_one(ModuleRow, one.member_id) for one in row.lineage]
