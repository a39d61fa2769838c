"""Class moments: all that most scores need of a module's features, in one pass over them.

They are sums over examples, so they add up over shards and sites, any choice or grouping of the
classes is a sum of them, and no example can be read off them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from modkernel.errors import MomentsError
from modkernel.reuse.task import Task

__all__ = ["MOMENTS_LIMIT", "ClassMoments", "ModuleMoments", "accumulate", "check_size"]

MOMENTS_LIMIT = 256 * 2**20
"""Bytes of packed second moments that one set of class moments may have."""
BLOCK_NUMBERS = 4 * 2**20
"""Numbers that are converted to float64 at once: 32 MiB."""
BLOCK_ROWS = (256, 8192)
"""Fewest and most examples in a block: small products are slow, and large ones take memory."""


@dataclass(frozen=True, eq=False)
class ClassMoments:
    """Sums over the examples of each of C classes, of features φ [d]; on the CPU.

    Attributes:
        classes: names, in the order of the labels.
        fingerprint: of the data set.
        counts: int64 [C], examples.
        sums: float64 [C, d], Σφ.
        products: float64 [C, d, d], Σφφᵀ.
        squares: float64 [C], Σ‖φ‖².
        fourths: float64 [C], Σ‖φ‖⁴.
        least: least feature of any class; 0 or more where the kernel is never negative.
    """

    classes: tuple[str, ...]
    fingerprint: str
    counts: Tensor
    sums: Tensor
    products: Tensor
    squares: Tensor
    fourths: Tensor
    least: float

    @property
    def dimension(self) -> int:
        """Number d of features."""
        return self.sums.shape[1]

    @property
    def examples(self) -> int:
        """Number of examples of all classes."""
        return int(self.counts.sum())

    def merge(self, other: ClassMoments) -> ClassMoments:
        """Moments of both sets of examples together.

        Raises:
            MomentsError: the other has other classes, another fingerprint or another dimension.
        """
        for what in ("classes", "fingerprint", "dimension"):
            mine, others = getattr(self, what), getattr(other, what)
            if mine != others:
                raise MomentsError(
                    f"Class moments of {what} {_short(mine)} and of {_short(others)} do not add "
                    "up: merge moments of one module on shards of one data set."
                )
        return replace(
            self,
            counts=self.counts + other.counts,
            sums=self.sums + other.sums,
            products=self.products + other.products,
            squares=self.squares + other.squares,
            fourths=self.fourths + other.fourths,
            least=min(self.least, other.least),
        )

    def grouped(self, task: Task) -> ClassMoments:
        """Moments of the task's sides: as of the examples relabelled, the others left out.

        Raises:
            ClassError: the task names an unknown class.
        """
        side = task.assign(self.classes)
        chosen, sides = side >= 0, len(task.groups)

        def joined(values: Tensor) -> Tensor:
            into = values.new_zeros(sides, *values.shape[1:])
            return into.index_add_(0, side[chosen], values[chosen])

        return replace(
            self,
            classes=tuple(task.groups),
            counts=joined(self.counts),
            sums=joined(self.sums),
            products=joined(self.products),
            squares=joined(self.squares),
            fourths=joined(self.fourths),
        )


@dataclass(frozen=True, eq=False)
class ModuleMoments:
    """A module's class moments on one data set.

    Attributes:
        module_id: of the module.
        train: of training examples.
        validation: of examples that no module is trained on by this data set's labels; one that
            was trained on a list of its pairs has seen them (`DatasetFacts.saw_validation`).
        seconds: that the pass over the data took.

    Raises:
        MomentsError: the two are not of the same data, classes and features.
    """

    module_id: str
    train: ClassMoments
    validation: ClassMoments
    seconds: float

    def __post_init__(self) -> None:
        for what in ("classes", "fingerprint", "dimension"):
            if getattr(self.train, what) != getattr(self.validation, what):
                raise MomentsError(
                    f"Moments of training and validation examples differ in {what}: take both "
                    "from one module on one data set."
                )


def accumulate(
    blocks: Iterable[tuple[Tensor, Tensor]], classes: Iterable[str], fingerprint: str
) -> ClassMoments:
    """Class moments of features that come in blocks, in float64; memory does not grow with n.

    Args:
        blocks: pairs of φ, floating [B, d], and labels, int64 [B]; B may differ from block to
            block. An example labelled -1 is left out. Computed on the device of φ.
        classes: names, in the order of the labels.
        fingerprint: of the data set.

    Raises:
        MomentsError: no example at all, features that are not finite or not of one length, labels
            that no class has, or moments beyond `MOMENTS_LIMIT`.
    """
    classes = tuple(classes)
    total: ClassMoments | None = None
    for phi, labels in _regroup(blocks):
        _check_block(phi, labels, len(classes))
        if total is None:
            total = _empty(classes, fingerprint, phi)
        if phi.shape[1] != total.dimension:
            raise MomentsError(
                f"A block has {phi.shape[1]} features, the ones before it {total.dimension}: "
                "take all blocks from one module."
            )
        total = replace(total, least=min(total.least, float(phi.min())))
        _add(total, phi.double(), labels)
    if total is None:
        raise MomentsError("There are no examples to take moments of: give at least one block.")
    for product in total.products:
        # A product of a matrix with itself is symmetric but for rounding; stored ones are exactly.
        product.copy_(product.triu() + product.triu(1).T)
    on_cpu = {
        name: getattr(total, name).cpu()
        for name in ("counts", "sums", "products", "squares", "fourths")
    }
    return replace(total, **on_cpu)


def check_size(classes: int, dimension: int) -> None:
    """Check that moments of C classes and d features may be stored.

    Raises:
        MomentsError: the packed second moments are larger than `MOMENTS_LIMIT`.
    """
    size = 8 * classes * dimension * (dimension + 1) // 2
    if size > MOMENTS_LIMIT:
        raise MomentsError(
            f"Class moments of {classes} classes and {dimension} features take "
            f"{size / 2**20:.0f} MiB, and at most {MOMENTS_LIMIT / 2**20:.0f} MiB are stored: use "
            "kernel relu_avgpool with a larger pool (or none, for the whole map), or fewer classes."
        )


def _regroup(blocks: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """The same examples in blocks that are neither small nor large."""
    waiting: list[tuple[Tensor, Tensor]] = []
    count = 0
    for phi, labels in blocks:
        if phi.ndim != 2 or labels.shape != phi.shape[:1]:
            raise MomentsError(
                f"A block has features of shape {list(phi.shape)} and labels of shape "
                f"{list(labels.shape)}: give [B, d] and [B]."
            )
        fewest, most = BLOCK_ROWS
        rows = min(max(BLOCK_NUMBERS // max(1, phi.shape[1]), fewest), most)
        for part in zip(phi.split(rows), labels.split(rows), strict=True):
            if waiting and (
                count + len(part[0]) > rows or part[0].shape[1] != waiting[0][0].shape[1]
            ):
                yield _joined(waiting)
                waiting, count = [], 0
            if len(part[0]):
                waiting.append(part)
                count += len(part[0])
    if waiting:
        yield _joined(waiting)


def _joined(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    if len(parts) == 1:
        return parts[0]
    return torch.cat([phi for phi, _ in parts]), torch.cat([labels for _, labels in parts])


def _check_block(phi: Tensor, labels: Tensor, classes: int) -> None:
    if not bool(torch.isfinite(phi).all()):
        raise MomentsError(
            "A module's features are not finite: train it again at a lower learning rate, or "
            "with clip_norm."
        )
    if bool(((labels < -1) | (labels >= classes)).any()):
        raise MomentsError(
            f"A label is not in 0 … {classes - 1} (or -1, left out): give one class name per label."
        )


def _empty(classes: tuple[str, ...], fingerprint: str, phi: Tensor) -> ClassMoments:
    count, d = len(classes), phi.shape[1]
    check_size(count, d)

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(*shape, dtype=torch.float64, device=phi.device)

    return ClassMoments(
        classes=classes,
        fingerprint=fingerprint,
        counts=torch.zeros(count, dtype=torch.int64, device=phi.device),
        sums=zeros(count, d),
        products=zeros(count, d, d),
        squares=zeros(count),
        fourths=zeros(count),
        least=float("inf"),
    )


def _add(total: ClassMoments, phi: Tensor, labels: Tensor) -> None:
    """Add a block, float64 [B, d], in place."""
    for index in labels.unique().tolist():
        if index < 0:
            continue
        rows = phi[labels == index]
        norms = rows.square().sum(1)
        total.counts[index] += len(rows)
        total.sums[index] += rows.sum(0)
        total.products[index].addmm_(rows.T, rows)
        total.squares[index] += norms.sum()
        total.fourths[index] += norms.square().sum()


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
