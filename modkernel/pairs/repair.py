"""Batches of class labels that all have a same and a different pair, little else changed."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

__all__ = ["SMALLEST_CLASS_BATCH", "repaired"]

SMALLEST_CLASS_BATCH = 3
"""Examples in a batch that holds a same and a different pair."""
TRIES = 8
"""Partners that are tried for one that its batch can spare."""


def repaired(groups: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    """Batches that each have a same and a different pair, and that bring every class together.

    Batches that do so already are returned as they are. In the others as few examples as possible
    are exchanged: with another batch that can spare one, or with an example that is in none. Where
    no batch can spare one (few examples of a class, or of all but one, and many batches), an
    example comes into a second batch, and the one in its place into none.

    Args:
        groups: int64 [n], classes by number, of which there are two at least, one of them with
            two examples or more.
        rows: int64 [k, b], examples by batch, each once; b is at least `SMALLEST_CLASS_BATCH`.
        generator: on the CPU; decides which examples are exchanged.

    Returns:
        int64 [k, b], each example at most once in a row.
    """
    if _is_fine(groups, rows):
        return rows
    seed = int(torch.randint(2**62, (1,), generator=generator))
    draft = _Draft(groups.numpy(), rows.numpy().copy(), random.Random(seed))
    for batch in range(len(rows)):
        draft.mend(batch)
    for members in list(draft.members.values()):
        if len(members) > 1 and not draft.together[draft.groups[members[0]]]:
            draft.join(members)
    return torch.from_numpy(draft.rows)


def _is_fine(groups: Tensor, rows: Tensor) -> bool:
    """Whether all batches have pairs of both kinds, and all classes of two a pair somewhere."""
    ordered = groups[rows].sort(1).values
    alike = ordered[:, 1:] == ordered[:, :-1]
    if not bool(alike.any(1).all()) or bool(alike.all(1).any()):
        return False
    together = torch.bincount(ordered[:, 1:][alike], minlength=int(groups.max()) + 1) > 0
    return bool((together | (torch.bincount(groups) < 2)).all())


class _Draft:
    """Batches while they are repaired, with what is asked of them again and again.

    All of that is kept as batches change: of very many classes each is asked for, and to count a
    batch anew each time takes longer than to train on it.
    """

    def __init__(self, groups: np.ndarray, rows: np.ndarray, chance: random.Random) -> None:
        self.groups, self.rows, self.chance = groups.tolist(), rows, chance
        self.members: dict[int, list[int]] = defaultdict(list)
        for example, group in enumerate(self.groups):
            self.members[group].append(example)
        self.place = [-1] * len(groups)
        """The batch of each example, one of them if it is in two; -1 if it is in none."""
        for batch, row in enumerate(rows.tolist()):
            for example in row:
                self.place[example] = batch
        self.outside: dict[int, list[int]] = {}
        self.classes = groups[rows]
        """The class of each example of a batch, like `rows`."""
        classes = len(self.members)
        keys = np.arange(len(rows))[:, None] * classes + self.classes
        found, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        self.alike = counts[inverse].reshape(rows.shape)
        """How many examples of its batch are of its class, itself included, like `rows`."""
        self.together = np.bincount(found[counts > 1] % classes, minlength=classes)
        """Batches with a same pair of each class, [classes]."""

    @cached_property
    def with_partner(self) -> list[int]:
        """Examples that are not alone in their class."""
        return [i for members in self.members.values() if len(members) > 1 for i in members]

    def mend(self, batch: int) -> None:
        """Bring a pair of the kind that is missing into a batch."""
        row, alike = self.rows[batch].tolist(), self.alike[batch]
        if alike[0] == len(row):
            # Two, so that pairs of a rare class occur where another class fills the batches; two
            # of the batch's own stay.
            first = self.chance.choice(self._outside(self.groups[row[0]]))
            self._bring([first], batch, row[-1])
            if len(row) > SMALLEST_CLASS_BATCH:
                self._bring(self._partners(first), batch, row[-2])
        elif alike.max() == 1:
            paired = [i for i in row if len(self.members[self.groups[i]]) > 1]
            if paired:
                stays = self.chance.choice(paired)
            else:
                stays = self.chance.choice(self.with_partner)
                self._bring([stays], batch, row[-1])
            self._bring(self._partners(stays), batch, next(i for i in row if i != stays))

    def join(self, members: Sequence[int]) -> None:
        """Bring two examples of a class that is together nowhere into one batch, if one has room.

        An example stays where it is half of the only pair of its class.
        """
        first, second = self.chance.sample(members, 2)
        if self.place[first] < 0:
            first, second = second, first
        batch = self.place[first]
        if batch < 0:
            batch = self.chance.randrange(len(self.rows))
        for example in (first, second):
            row, classes = self.rows[batch], self.classes[batch]
            if example in row:
                continue
            spared = (self.alike[batch] != 2) | (self.together[classes] > 1)
            leaving = row[spared & (classes != self.groups[example])].tolist()
            if leaving:
                self._bring([example], batch, self.chance.choice(leaving))

    def _bring(self, candidates: Sequence[int], batch: int, leaving: int) -> None:
        """Put one of the candidates into a batch in place of an example that leaves it.

        The two change places if the candidate's batch still has all its pairs then, or had not
        before; failing that for all candidates, the last of them comes into this batch as well.
        """
        row = self.rows[batch]
        new = [candidate for candidate in candidates if candidate not in row]
        if not new:
            return
        if self.place[leaving] == batch:
            self.place[leaving] = -1
        newcomer = next((one for one in new if self._exchanged(one, leaving)), new[-1])
        self._replace(batch, leaving, newcomer)
        self.place[newcomer] = batch

    def _exchanged(self, example: int, replacement: int) -> bool:
        """Take an example out of its batch for another one; False if the batch cannot spare it."""
        source = self.place[example]
        if source < 0:
            return True
        if replacement in self.rows[source]:
            return False
        had_pairs = self._is_valid(source)
        self._replace(source, example, replacement)
        if had_pairs and not self._is_valid(source):
            self._replace(source, replacement, example)
            return False
        self.place[replacement] = source
        return True

    def _replace(self, batch: int, leaving: int, newcomer: int) -> None:
        """Put an example that is not in a batch in the place of one that is."""
        row, classes, alike = self.rows[batch], self.classes[batch], self.alike[batch]
        at = (row == leaving).argmax()
        old, new = classes[at], self.groups[newcomer]
        self.together[old] -= alike[at] == 2
        alike[classes == old] -= 1
        row[at], classes[at] = newcomer, new
        of_new = classes == new
        alike[at] = of_new.sum()
        alike[of_new] = alike[at]
        self.together[new] += alike[at] == 2

    def _partners(self, example: int) -> list[int]:
        """A few others of its class, in random order."""
        members = self.members[self.groups[example]]
        drawn = self.chance.sample(members, min(TRIES, len(members)))
        return [i for i in drawn if i != example]

    def _outside(self, group: int) -> list[int]:
        """All examples that are not of a class."""
        if group not in self.outside:
            self.outside[group] = [i for i, other in enumerate(self.groups) if other != group]
        return self.outside[group]

    def _is_valid(self, batch: int) -> bool:
        """Whether a batch has a same and a different pair."""
        alike = self.alike[batch]
        return bool(alike.max() > 1 and alike[0] < len(alike))
