"""Proxy objectives: what a hidden module maximises, from kernel values and pairs alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from modkernel.errors import ObjectiveError, PairError
from modkernel.kernels import Kernel, at_least_float32
from modkernel.lookup import lookup
from modkernel.objectives import formulas
from modkernel.objectives.formulas import Formula, Setting
from modkernel.pairs.labels import PairLabels
from modkernel.spec import ObjectiveSpec

__all__ = ["OBJECTIVES", "ProxyObjective", "make_objective"]

LARGEST_EXPONENT = 80.0
"""exp of more than this nears the end of float32."""


@dataclass(frozen=True)
class ProxyObjective:
    """A proxy objective for one kernel; made by `make_objective`.

    Attributes:
        name: name in `OBJECTIVES`.
        needs_same: undefined without a same pair.
        needs_different: undefined without a different pair.
        formula: the value from K [N, N], pairs and setting.
        setting: bounds of the kernel, temperature, diagonal.
    """

    name: str
    needs_same: bool
    needs_different: bool
    formula: Formula
    setting: Setting

    def __call__(self, gram: Tensor, pairs: PairLabels) -> Tensor:
        """Value to maximise.

        Args:
            gram: kernel values [N, N], symmetric.
            pairs: of the same N examples, on any device.

        Returns:
            Scalar, float64 if the gram is, else float32.

        Raises:
            PairError: no known pair, no same or no different pair where one is needed, or a gram
                that is not N x N.
        """
        if gram.shape != (len(pairs), len(pairs)):
            raise PairError(
                f"A kernel matrix of shape {list(gram.shape)} does not fit pairs of {len(pairs)} "
                "examples: both must be of one batch."
            )
        self.check(pairs)
        return self.value(gram, pairs.to(gram.device))

    def check(self, pairs: PairLabels) -> None:
        """Refuse pairs that the objective is undefined for; a GPU is waited for if they lie there.

        Raises:
            PairError: no known pair, or no same or no different pair where one is needed.
        """
        for missing, kind in (
            (not pairs.n_same + pairs.n_different, "known"),
            (self.needs_same and not pairs.n_same, "same"),
            (self.needs_different and not pairs.n_different, "different"),
        ):
            if missing:
                raise PairError(
                    f"Objective '{self.name}' needs a {kind} pair, and there is none among these "
                    f"{len(pairs)} examples: use larger batches, or add such pairs."
                )

    def value(self, gram: Tensor, pairs: PairLabels) -> Tensor:
        """`self(gram, pairs)` of pairs on the gram's device that `check` took: nothing waits."""
        with torch.autocast(gram.device.type, enabled=False):
            k = at_least_float32(gram)
            # Counts that are float64 scalars make scalars of them.
            return self.formula(k, pairs, self.setting).to(k.dtype)


def make_objective(spec: ObjectiveSpec, kernel: Kernel) -> ProxyObjective:
    """Return the objective that a spec describes, for modules compared by `kernel`.

    >>> from modkernel.kernels import make_kernel
    >>> from modkernel.spec import KernelSpec
    >>> kernel = make_kernel(KernelSpec(name="tanh"))
    >>> objective = make_objective(ObjectiveSpec(name="alignment"), kernel)
    >>> h = torch.tensor([[1.0, 2.0], [1.0, 2.0], [-1.0, -2.0]])  # a module's output
    >>> value = objective(kernel.gram(h, h), PairLabels.from_classes(torch.tensor([0, 0, 1])))
    >>> round(value.item(), 4)  # 1 is the most: every pair has its ideal value
    1.0

    Raises:
        UnknownNameError: no objective has that name.
        ObjectiveError: it is undefined for the kernel (negative-only alignment where k_min is 0),
            has no temperature or diagonal to set, or its exponentials overflow.
    """
    entry = lookup(OBJECTIVES, spec.name, "objective")
    if spec.temperature is not None and entry.temperature is None:
        raise ObjectiveError(
            f"Objective '{spec.name}' has no temperature: leave it out, or use an objective with "
            f"exponentials ({_names(lambda e: e.temperature is not None)})."
        )
    if spec.include_diagonal is not None and not entry.diagonal:
        raise ObjectiveError(
            f"Objective '{spec.name}' never counts the diagonal: leave include_diagonal out, or "
            f"use {_names(lambda e: e.diagonal)}."
        )
    if entry.needs_negative_k_min and kernel.k_min == 0:
        raise ObjectiveError(
            f"Objective '{spec.name}' is undefined for kernel '{kernel.name}', whose least value "
            "is 0: use kernel tanh, or another negative-only objective (raw_neo, nmse_neo)."
        )
    temperature = spec.temperature or entry.temperature or 1.0
    if entry.overflows and kernel.k_max / temperature > LARGEST_EXPONENT:
        raise ObjectiveError(
            f"Objective '{spec.name}' overflows at temperature {temperature:g}: use at least "
            f"{kernel.k_max / LARGEST_EXPONENT:g}, or log_{spec.name}."
        )
    diagonal = entry.diagonal if spec.include_diagonal is None else spec.include_diagonal
    return ProxyObjective(
        name=spec.name,
        needs_same=entry.needs_same or (entry.needs_target and kernel.k_min == 0 and not diagonal),
        needs_different=entry.needs_different,
        formula=entry.formula,
        setting=Setting(kernel.k_min, kernel.k_max, temperature, diagonal),
    )


@dataclass(frozen=True)
class Entry:
    """A row of the table of objectives.

    `diagonal` says that k(i, i) counts unless the spec says otherwise; `needs_target`, that the
    ideal values must not all be 0; `overflows`, that exponentials are not taken by differences.
    """

    formula: Formula
    needs_same: bool = False
    needs_different: bool = False
    needs_target: bool = False
    needs_negative_k_min: bool = False
    temperature: float | None = None
    diagonal: bool = False
    overflows: bool = False


OBJECTIVES: Mapping[str, Entry] = {
    "raw": Entry(formulas.raw),
    "raw_neo": Entry(formulas.raw_neo, needs_different=True),
    "nmse": Entry(formulas.nmse, diagonal=True),
    "nmse_neo": Entry(formulas.nmse_neo, needs_different=True),
    "alignment": Entry(formulas.alignment, needs_target=True, diagonal=True),
    "alignment_neo": Entry(formulas.alignment_neo, needs_different=True, needs_negative_k_min=True),
    "upper_alignment": Entry(formulas.alignment, needs_target=True),
    "upper_alignment_neo": Entry(
        formulas.alignment_neo, needs_different=True, needs_negative_k_min=True
    ),
    "contrastive": Entry(formulas.contrastive, needs_same=True, temperature=1.0),
    "contrastive_neo": Entry(
        formulas.contrastive_neo, needs_different=True, temperature=1.0, overflows=True
    ),
    "log_contrastive": Entry(formulas.log_contrastive, needs_same=True, temperature=1.0),
    "log_contrastive_neo": Entry(
        formulas.log_contrastive_neo, needs_different=True, temperature=1.0
    ),
    "pair_correlation": Entry(formulas.pair_correlation, needs_same=True, needs_different=True),
    "anchor_contrastive": Entry(formulas.anchor_contrastive, needs_same=True, temperature=0.1),
    "group_contrastive": Entry(formulas.group_contrastive, needs_same=True, temperature=0.1),
}
"""Name to formula and defaults. Names ending in `_neo` take different pairs alone."""


def _names(wanted: Callable[[Entry], bool]) -> str:
    return ", ".join(name for name, entry in OBJECTIVES.items() if wanted(entry))
