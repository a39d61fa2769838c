"""Whether a stitch is worth storing: what it gives on held-out data, beside its parents.

Even noise can be stitched: a map that is fitted to UPPER's features makes them of whatever LOWER
gives ("Functional alignment can mislead", ICML 2025). So LOWER must be better than the same blocks
with untrained weights, which a LOWER that was trained on noise is not; the stitch must be better
than LOWER alone; and it must keep most of what UPPER is worth at home. All is judged with few
labels, since that is what stored modules are for: with all of them, LOWER alone is often as good.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from modkernel.control import Stop, never_stop
from modkernel.data import Dataset
from modkernel.data.dataset import Split
from modkernel.data.label_budget import draw_labels
from modkernel.data.sources import ExampleSource, pick_from
from modkernel.errors import StitchError
from modkernel.features.compute import compute_features
from modkernel.features.extractor import frozen_chain, make_extractor
from modkernel.features.measure import pick
from modkernel.features.sources import Picked
from modkernel.kernels import make_kernel
from modkernel.modules.stored import StoredModule
from modkernel.spec import KernelSpec, OutputSpec
from modkernel.system.precision import Arithmetic
from modkernel.system.seeding import generator_for, seeded
from modkernel.training.heads import fit_ridge, predict_heads
from modkernel.training.report import StitchFigures
from modkernel.training.stitch import Targets

LABELS_PER_CLASS = 10
DRAWS = 20
"""Of that many labels; every figure is the mean over them."""
POOL_PER_CLASS = 100
"""Training examples of a class that labels are drawn from, at most."""
HELD_OUT_PER_CLASS = 200
"""Validation examples of a class that are tested on, at most."""
HELD_OUT = 1000
"""Validation examples that features are compared on, at most, where there are no labels."""
STANDARD_ERRORS = 2.0
"""That the stitch must be better than LOWER alone by."""
LEAST_KEPT = 0.95
"""Of UPPER's accuracy at home, above chance. Fashion-MNIST, LeNet-5: 0.97 and more on a LOWER of
the same data, at most 0.93 on one that was trained on noise, 0.87 on an untrained one."""
LEAST_EXPLAINED = 0.9
"""Of the variance of UPPER's features, where there are no labels. Likewise 0.95 on a LOWER of the
same data, 0.89 on one that was trained on noise, 0.84 on an untrained one."""
NORMED, NORMED_TOGETHER = 512, 128
"""Examples that give an untrained LOWER its statistics."""
SIDE = 4
"""LOWER's maps are looked at in squares, too, of which there are so many a side at least."""
OUTPUT = OutputSpec(method="ridge")


def judge_stitch(
    lower: Sequence[StoredModule],
    upper: Sequence[StoredModule],
    stitch: StoredModule,
    data: Dataset,
    arithmetic: Arithmetic,
    stop: Stop = never_stop,
    left_out: Sequence[int] = (),
) -> StitchFigures:
    """What a stitch is worth on validation examples, beside LOWER alone and UPPER at home.

    Not on those that a small set borrows from its training part (`Dataset.validation_part`), nor on
    those that are left out.

    With class labels: accuracies of ridge output modules on `LABELS_PER_CLASS` labels a class, the
    mean of `DRAWS` draws that are the same for all. LOWER alone, trained or not, is the better of
    two: under its own kernel, and, where it gives maps, under one that keeps where in the map a
    feature is.

    Args:
        lower: the chain that the stitch stands on.
        upper: the chain of the module that it has a copy of.
        stitch: the stitch, as it is written.
        data: labelled or not.
        arithmetic: device and number format.
        stop: asked before every batch.
        left_out: positions of validation examples that LOWER or UPPER was trained on.

    Raises:
        StoppedError: `stop` said so.
        SettingsError: there is no room for the features, see `compute_features`.
    """
    data = replace(data, validation=_without(data.validation, left_out))
    chain = [*lower, stitch]
    explained, compared = _explained(chain, upper, data, arithmetic, stop)
    labels, held = data.train.labels, data.validation
    count = len(data.classes)
    fewest = 0 if labels is None else int(torch.bincount(labels, minlength=count).min())
    if labels is None or held.labels is None or not fewest or not compared:
        return _judged(StitchFigures(explained=explained, held_out=compared))
    pool = pick(labels, data, "stitch", POOL_PER_CLASS)
    tested = pick(held.labels, data, "stitch validation", HELD_OUT_PER_CLASS)
    known, truth = labels[pool], held.labels[tested]
    per_class = min(LABELS_PER_CLASS, fewest)
    chosen = draw_labels(known, count, per_class, DRAWS, stitch.spec.seed)

    def right(frozen: nn.Module, kernel: KernelSpec) -> Tensor:
        """Which held-out examples each draw's output module gets right, float64 [D, n]."""
        extractor = make_extractor(frozen, kernel, data.train.examples, 0, arithmetic)

        def features(source: ExampleSource, rows: Tensor) -> Tensor:
            found = compute_features(extractor, Picked(source, rows), arithmetic, stop=stop)
            return found.values.float().cpu()

        phi, seen = features(data.train.examples, pool), features(held.examples, tested)
        fit = fit_ridge(phi, known, chosen, count, OUTPUT)
        return (predict_heads(fit, seen) == truth).double()

    def best(frozen: nn.Module) -> Tensor:
        """The same of LOWER, under the kernel that is better."""
        found = (right(frozen, kernel) for kernel in _kernels_of(lower[-1]))
        return max(found, key=lambda one: float(one.mean()))

    kernel = stitch.spec.interface.kernel
    ours = right(arithmetic.place(frozen_chain(chain)), kernel)
    home = right(arithmetic.place(frozen_chain(upper)), kernel)
    alone = best(arithmetic.place(frozen_chain(lower)))
    bare = best(_untrained(lower, data.train.examples, arithmetic))
    return _judged(
        StitchFigures(
            explained=explained,
            held_out=len(tested),
            labels_per_class=per_class,
            draws=DRAWS,
            accuracy=float(ours.mean()),
            lower=float(alone.mean()),
            upper=float(home.mean()),
            untrained=float(bare.mean()),
            gain_error=standard_error(ours - alone),
            lower_error=standard_error(alone - bare),
            kept=kept_above_chance(float(ours.mean()), float(home.mean()), count),
        )
    )


def check_worth(figures: StitchFigures) -> None:
    """Refuse a stitch that is not worth storing.

    Raises:
        StitchError: it is not; the message has the figures.
    """
    if figures.objection is not None:
        raise StitchError(
            f"The stitch is not worth storing: {figures.objection} {figures.text} Build on LOWER "
            "alone or on UPPER with its own upstream, take other modules, or keep it all the same "
            "with --force."
        )


def standard_error(difference: Tensor) -> float:
    """Of the mean of differences [D, n] over draws of labels and held-out examples, both random."""
    draws, examples = difference.shape
    variances = [
        float(difference.mean(0).var(correction=1)) / examples if examples > 1 else 0.0,
        float(difference.mean(1).var(correction=1)) / draws if draws > 1 else 0.0,
    ]
    return math.sqrt(sum(variances))


def kept_above_chance(accuracy: float, home: float, classes: int) -> float:
    """Share of what an accuracy at home is above chance that another one has; 0 if it is not."""
    chance = 1 / classes
    return max(0.0, (accuracy - chance) / (home - chance)) if home > chance else 0.0


def _is_surely_more(difference: float, error: float | None) -> bool:
    return difference > STANDARD_ERRORS * (error or 0)


def _must_be_more(difference: float, error: float | None, other: str) -> str:
    return (
        f"minus that {other} is {difference:.1%} with a standard error of {error or 0:.1%}, of "
        f"which it must be more than {STANDARD_ERRORS:g}; with more held-out examples that error "
        "is smaller."
    )


def objection_to(figures: StitchFigures) -> str | None:
    """Why a stitch of these figures is not worth storing, as a sentence; None where it is."""
    if not figures.held_out:
        return "the data have no validation examples to judge it by that no module was trained on."
    accuracy, lower, bare = figures.accuracy, figures.lower, figures.untrained
    if accuracy is None or lower is None or bare is None:
        if figures.explained < LEAST_EXPLAINED:
            return (
                f"UPPER's features do not come out on it, of whose variance {LEAST_EXPLAINED:.0%} "
                "must be explained."
            )
        return None
    if not _is_surely_more(lower - bare, figures.lower_error):
        return (
            "it is not sure that LOWER knows anything of these data, and whatever the stitch gives "
            "may be learnt by the map: the accuracy on LOWER alone "
            f"{_must_be_more(lower - bare, figures.lower_error, 'with untrained weights')}"
        )
    if not _is_surely_more(accuracy - lower, figures.gain_error):
        return (
            "it is not surely better than LOWER alone: its accuracy "
            f"{_must_be_more(accuracy - lower, figures.gain_error, 'on LOWER alone')}"
        )
    if figures.kept is not None and figures.kept < LEAST_KEPT:
        return (
            "it keeps too little of what UPPER is worth at home, above chance, of which "
            f"{LEAST_KEPT:.0%} is asked."
        )
    return None


def _without(part: Split, left_out: Sequence[int]) -> Split:
    """A split without the examples at some positions."""
    if not left_out:
        return part
    kept = torch.ones(len(part), dtype=torch.bool)
    kept[list(left_out)] = False
    rows = kept.nonzero().flatten()
    return Split(
        ids=[part.ids[row] for row in rows.tolist()],
        labels=None if part.labels is None else part.labels[rows],
        examples=pick_from(part.examples, rows),
    )


def _judged(figures: StitchFigures) -> StitchFigures:
    return figures.changed(objection=objection_to(figures))


@torch.no_grad()
def _untrained(
    lower: Sequence[StoredModule], examples: ExampleSource, arithmetic: Arithmetic
) -> nn.Module:
    """The chain of LOWER with initial weights; its norms have the statistics of some examples."""
    chain = frozen_chain(lower)
    with seeded(0, "untrained"):
        for part in chain.modules():
            reset = getattr(part, "reset_parameters", None)
            if reset is not None:
                reset()
            if isinstance(part, nn.modules.batchnorm._BatchNorm):
                part.momentum = None  # A mean over all batches.
                part.train()  # A frozen chain as a whole stays in eval mode.
    arithmetic.place(chain)
    rows = torch.randperm(len(examples), generator=generator_for("untrained"))[:NORMED]
    batches = rows.tensor_split(max(1, round(len(rows) / NORMED_TOGETHER)))  # None of one example.
    for raw in examples.batches(batches, arithmetic.device):
        chain(arithmetic.arrange(raw))
    for part in chain.modules():
        part.training = False
    return chain


def _kernels_of(module: StoredModule) -> tuple[KernelSpec, ...]:
    """The kernels that a module alone is judged under."""
    own, gives = module.spec.interface.kernel, module.spec.interface.gives
    if len(gives) != 3:
        return (own,)
    pool = max(1, min(gives[1:]) // SIDE)
    return (own, KernelSpec(name="relu_avgpool", pool=pool))


def _explained(
    chain: Sequence[StoredModule],
    upper: Sequence[StoredModule],
    data: Dataset,
    arithmetic: Arithmetic,
    stop: Stop,
) -> tuple[float, int]:
    """Share of the variance of UPPER's features that the stitch's have, on held-out examples.

    1 - Σ‖φ - φ*‖² / Σ‖φ* - mean φ*‖², and the number of examples.
    """
    held = data.validation.examples
    drawn = torch.randperm(len(held), generator=generator_for("stitch", data.fingerprint))
    rows = drawn[:HELD_OUT].sort().values
    if not len(rows):
        return 0.0, 0
    kernel = make_kernel(upper[-1].spec.interface.kernel)

    def features(modules: Sequence[StoredModule]) -> Tensor:
        frozen: nn.Module = Targets(arithmetic.place(frozen_chain(modules)), kernel).eval()
        found = compute_features(frozen, Picked(held, rows), arithmetic, stop=stop)
        return found.values.double()

    ours, home = features(chain), features(upper)
    spread = (home - home.mean(0)).square().sum()
    if not spread > 0:
        return 0.0, len(rows)
    return float(1 - (ours - home).square().sum() / spread), len(rows)
