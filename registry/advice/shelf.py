"""The stored modules that take some data, and what is known of the examples they have seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from sqlalchemy import and_, select
from sqlalchemy.orm import defer
from torch import Tensor

from modkernel.data import DATASETS, DatasetInfo
from modkernel.registry.advice.records import LeftOut
from modkernel.registry.backends import Backends
from modkernel.registry.beside.examples import SeenExamples
from modkernel.registry.beside.moments import StoredMoments
from modkernel.registry.records import ModuleRecord, MomentsRecord
from modkernel.registry.sql import queries
from modkernel.registry.sql.tables import ModuleRow, MomentsRow
from modkernel.spec import DatasetFacts, Preprocessing

FILES = ("image_folder", "arrays", "table", "huggingface")
"""Data sets whose name does not tell what is in them."""


@dataclass(frozen=True)
class Candidate:
    """A stored hidden module that takes the data."""

    chain: tuple[ModuleRecord, ...]
    """Itself, and all that it stands on."""
    moments: MomentsRecord | None
    """Of the data."""

    @property
    def record(self) -> ModuleRecord:
        """The module itself."""
        return self.chain[0]

    @property
    def facts(self) -> tuple[DatasetFacts, ...]:
        """What it and the modules under it were trained on, its own first."""
        return learnt_by(self.chain)


@dataclass(frozen=True)
class Shelf:
    """Every method raises StoreError where the database fails."""

    backends: Backends
    examples: SeenExamples

    def candidates(self, data: DatasetInfo) -> tuple[list[Candidate], list[LeftOut]]:
        """All ready hidden modules by name and age: those that take the data, and the others."""
        found, left_out = [], []
        modules = self._hidden_modules(data.fingerprint)
        records = {record.id: record for record, _ in modules}
        for record, moments in modules:
            if takes(record.spec.preprocessing, data.preprocessing):
                found.append(Candidate(_chain(record, records), moments))
            else:
                message = _other(record)
                left_out.append(LeftOut(module=record, reason="interface", message=message))
        return found, left_out

    def trained_on(self, chain: Iterable[DatasetFacts], fingerprint: str) -> np.ndarray:
        """Digests of what a chain was trained on as part of other data sets, where it is known."""
        others = {facts for facts in chain if facts.fingerprint != fingerprint}
        known = [self.examples.of(facts) for facts in others]
        return np.concatenate(
            [np.empty(0, np.int64), *(digests for digests, _ in filter(None, known))]
        )

    def saw_pairs(self, chain: Iterable[DatasetFacts], data: DatasetInfo) -> bool:
        """Whether a list of pairs let a chain see validation examples that cannot be told."""
        return any(
            facts.saw_validation(data.name, data.fingerprint)
            and (facts.fingerprint == data.fingerprint or self.examples.of(facts) is None)
            for facts in chain
        )

    def _hidden_modules(self, fingerprint: str) -> list[tuple[ModuleRecord, MomentsRecord | None]]:
        """All ready hidden modules, with their moments of the data."""
        query = (
            select(ModuleRow, MomentsRow)
            .outerjoin(
                MomentsRow,
                and_(MomentsRow.module_id == ModuleRow.id, MomentsRow.fingerprint == fingerprint),
            )
            .where(ModuleRow.kind != "output", ModuleRow.state == "READY")
            .order_by(ModuleRow.name, ModuleRow.created_at)
            .options(defer(ModuleRow.report))
        )
        with self.backends.database.reading() as session:
            return [
                (queries.record_of(module), None if row is None else StoredMoments.record_of(row))
                for module, row in session.execute(query)
            ]


def known(digests: Tensor | None, of_task: Tensor, trained: np.ndarray) -> Tensor:
    """Positions of the task's examples that are among those trained on."""
    if digests is None:
        return torch.empty(0, dtype=torch.int64)
    return (torch.from_numpy(np.isin(digests.numpy(), trained)) & of_task).nonzero().flatten()


def learnt_by(chain: Iterable[ModuleRecord]) -> tuple[DatasetFacts, ...]:
    """What modules were trained on, in their order."""
    return tuple(facts for record in chain for facts in record.spec.learnt_from)


def everybody_has_alike(name: str) -> bool:
    """Whether the name of a data set tells what is in it."""
    return name in DATASETS and name not in FILES


def takes(wanted: Preprocessing, found: Preprocessing) -> bool:
    """Whether what is made for some examples takes others."""
    same_columns = None in (wanted.columns, found.columns) or wanted.columns == found.columns
    return (wanted.shape, wanted.dtype) == (found.shape, found.dtype) and same_columns


def not_cached(record: ModuleRecord) -> str:
    """The sentence for features that are gone."""
    return (
        f"The measured features of module {record.short_id} ({record.name}) are not in the cache "
        "any more: 'modkernel advise' without --stored-only computes them again."
    )


def saw_pairs_of(record: ModuleRecord) -> str:
    """The sentence for a module that a list of pairs let see the held-out examples."""
    return (
        f"Module {record.short_id} ({record.name}), or one under it, was trained on a list of "
        "pairs of these data, which is over the held-out examples too."
    )


def _chain(record: ModuleRecord, records: Mapping[str, ModuleRecord]) -> tuple[ModuleRecord, ...]:
    """A module and all that it stands on, each once."""
    found: dict[str, ModuleRecord] = {}
    waiting = [record]
    while waiting:
        one = waiting.pop()
        if one.id not in found:
            found[one.id] = one
            waiting += [records[name] for name in one.spec.interface.stands_on if name in records]
    return tuple(found.values())


def _other(record: ModuleRecord) -> str:
    wanted = record.spec.preprocessing
    remedy = ""
    if len(wanted.shape) == 3:
        channels, height, width = wanted.shape
        size = f"{height}" if height == width else f"{height}x{width}"
        remedy = f"; --image-size {size} --channels {channels} makes images so"
    return (
        f"Module {record.short_id} ({record.name}) takes examples of shape "
        f"{'×'.join(map(str, wanted.shape))}, {wanted.dtype}{remedy}."
    )
