"""Pairs: all that a hidden module's training gets to know about labels.

`PairSource` is what `train_hidden` takes. It holds which pairs of examples are of the same class
and nothing more: neither class identities nor their names can be had back from it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from modkernel.errors import PairError
from modkernel.pairs.groups import PairGroups
from modkernel.pairs.labels import PairLabels
from modkernel.pairs.table import PairTable
from modkernel.pairs.views import SMALLEST_VIEW_BATCH, PairViews

__all__ = ["PairLabels", "PairSource"]


class PairSource:
    """Pairwise labels of a set of examples, in batches; immutable.

    Make one with `from_classes`, `from_pairs` or `from_views`.
    """

    def __init__(self, known: PairGroups | PairTable | PairViews) -> None:
        self._known = known

    @classmethod
    def from_classes(cls, labels: Tensor) -> PairSource:
        """All pairs of examples with class labels, integers [n].

        The labels are replaced by a numbering that any renaming of the classes leaves as it is.

        Raises:
            PairError: labels are not whole numbers of 0 or more in one dimension.
        """
        return cls(PairGroups.of(labels))

    @classmethod
    def from_pairs(cls, n_examples: int, i: Tensor, j: Tensor, same: Tensor) -> PairSource:
        """The pairs (i[k], j[k]), integers [M], of which same[k], bool or 0/1 [M], is known.

        Raises:
            PairError: the list is empty or contradicts itself, same is not 0/1, an index is
                outside 0..n_examples-1, or a pair joins an example with itself.
        """
        return cls(PairTable.of(n_examples, i, j, same))

    @classmethod
    def from_views(
        cls,
        n_examples: int,
        labels: Tensor | None = None,
        listed: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> PairSource:
        """Two random views an example: a same pair of one example's, different ones of others'.

        Args:
            n_examples: how many there are.
            labels: integers [n_examples], -1 for none: views of one label are same pairs too.
            listed: known pairs as of `from_pairs`: those that are the same are so in all views.

        Raises:
            PairError: see `from_classes` and `from_pairs`.
        """
        if labels is not None:
            return cls(PairViews.of_labels(labels))
        if listed is not None:
            return cls(PairViews.of_pairs(n_examples, *listed))
        return cls(PairViews.of(n_examples))

    @property
    def views(self) -> bool:
        """Whether a batch of B examples has 2 B rows: first views, then second ones."""
        return isinstance(self._known, PairViews)

    def __repr__(self) -> str:
        """The number of examples and of pairs, and no label."""
        return (
            f"PairSource(n_examples={self.n_examples}, n_same={self.n_same}, "
            f"n_different={self.n_different})"
        )

    @property
    def n_examples(self) -> int:
        """Number of examples that indices run over."""
        return self._known.n

    @property
    def n_same(self) -> int:
        """Number of known same pairs i < j, of views where they are compared."""
        return self._known.n_same

    @property
    def n_different(self) -> int:
        """Number of known different pairs i < j, of views where they are compared."""
        return self._known.n_different

    def check(self, needs_same: bool = True) -> None:
        """Refuse pairs that no hidden module can be trained on.

        Args:
            needs_same: whether the objective needs same pairs (`ProxyObjective.needs_same`).

        Raises:
            PairError: there is no different pair, or no same pair where one is needed.
        """
        if self.views and not self.n_different:
            reason = (
                "views take two examples at least, in training and in validation, so add some"
                if self.n_examples < SMALLEST_VIEW_BATCH
                else "all are of one label or listed as same, so add examples of another one"
            )
            raise PairError(
                f"Views of {self.n_examples} examples make no different pair: {reason} or set "
                "another dataset.validation_fraction."
            )
        if not self.n_different:
            raise PairError(
                f"None of the pairs of these {self.n_examples} examples is of different classes: "
                "a module needs examples of two classes at least."
            )
        if needs_same and not self.n_same:
            raise PairError(
                f"None of the pairs of these {self.n_examples} examples is of the same class: "
                "add some, or use an objective for different pairs alone (its name ends in _neo)."
            )

    def for_batch(self, indices: Tensor, device: torch.device | str | None = None) -> PairLabels:
        """All known pairs among a batch, or among the views of its examples.

        Args:
            indices: int64 [B], each at most once.
            device: where the result lies; that of `indices` if left out. Numbers of pairs are
                counted on the CPU, so that indices there make no accelerator wait.

        Raises:
            PairError: an index is outside 0..n_examples-1.
        """
        device = device or indices.device
        indices = indices.cpu()
        if len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < self.n_examples:
            raise PairError(
                f"A batch names examples {int(indices.min())} to {int(indices.max())}, "
                f"but there are 0 to {self.n_examples - 1}: take indices from batches()."
            )
        return self._known.among(indices, device)

    def n_batches(self, batch_size: int) -> int:
        """Number of batches that `batches` gives: the same in every epoch.

        Raises:
            PairError: batch_size is too small for pairs.
        """
        return self._known.n_batches(batch_size)

    def batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
        """Draw the batches of one epoch; all randomness is drawn before this returns.

        Every batch has a same and a different pair if the source has both.

        Of class labels: a permutation of all examples, in batches of exactly `batch_size`; what is
        left over is dropped unless it is all there is. A batch without a same pair then gets a
        partner for one of its examples; one without a different pair, two examples of another
        class. A class of two or more that comes together in no batch (one of 4 examples among
        2,000, mostly) gets two of its examples, others in every epoch, brought into one, so that
        each class shows a same pair an epoch. All this is exchanged for other examples as far as
        other batches can spare what is brought; where a class is too rare for that, its examples
        come into several batches of an epoch, and as many others into none (`repaired`). Batches
        that need none of it, as those of most sets of few classes, stay a plain permutation.

        Of a pair list: each batch is the union of the two ends of up to `batch_size` // 2 pairs;
        nothing is dropped. An epoch goes through every pair; of a list with more pairs than
        examples, through a random part as large as there are examples, since a batch also counts
        all other known pairs among its examples.

        Of views: a permutation of all examples in batches of `batch_size`; what is left over is
        dropped. Where less than a quarter of them is labelled or listed, a quarter of each batch at
        most is drawn of those, so that they meet, and the others are permuted.

        Args:
            batch_size: examples in a batch at most; 3 or more for class labels, 4 or more for
                pair lists, 2 or more for views.
            generator: on the CPU.

        Returns:
            Iterator of int64 [B] on the CPU, each index at most once in a batch.

        Raises:
            PairError: batch_size is too small for pairs.
        """
        return iter(self._known.batches(batch_size, generator))

    def split(self, fraction: float, seed: int) -> tuple[PairSource, PairSource]:
        """Split a pair list into a training part and a validation part, over the same indices.

        Of the same and of the different pairs each, about `fraction` go to validation: one at
        least, and never all. The parts have no pair in common, but may have examples in common.

        Raises:
            PairError: there are too few pairs; fraction is not between 0 and 1; or the source is
                of class labels, whose examples a data set has already split.
        """
        if not isinstance(self._known, PairTable):
            raise PairError(
                "Only lists of pairs are split: split the examples, and make a PairSource of each "
                "part's labels."
            )
        if not 0 < fraction < 1:
            raise PairError(f"A share of {fraction} cannot be split off: use one between 0 and 1.")
        training, validation = self._known.split(fraction, seed)
        return PairSource(training), PairSource(validation)
