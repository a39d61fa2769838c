"""Turn what a user asks for into the specs of the modules to train.

Everything that can be refused is refused here, before any training. A module's spec names its
upstream's id, so it is made when the upstream is known; the blocks and shapes are known at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch

from modkernel.backbones import build_skeleton
from modkernel.backbones.build import Placed, course_of
from modkernel.backbones.cut import check_weights, cut
from modkernel.backbones.tail import resolve_tail
from modkernel.data import DatasetInfo, LabelList
from modkernel.data.augment import augment
from modkernel.data.label_budget import check_output
from modkernel.data.views import check_views
from modkernel.errors import InterfaceError, ModkernelError, PairError, SpecError
from modkernel.kernels import KERNELS, fitting, make_kernel
from modkernel.lookup import lookup
from modkernel.modules.join import JOINED_KERNEL, joined_shape
from modkernel.objectives.table import OBJECTIVES, make_objective
from modkernel.pairs.repair import SMALLEST_CLASS_BATCH
from modkernel.pairs.table import SMALLEST_PAIR_BATCH
from modkernel.pairs.views import SMALLEST_VIEW_BATCH
from modkernel.spec import (
    BackboneSpec,
    DatasetFacts,
    HiddenModuleSpec,
    HiddenSpec,
    Interface,
    KernelSpec,
    ModuleSpec,
    NetworkSpec,
    OutputModuleSpec,
    OutputSpec,
    Preprocessing,
    Projection,
    Shape,
    Upstream,
    pairs_from,
    view_objective,
)
from modkernel.spec.group import check_together

EACH = "hidden[{}]"
"""Where a network's spec has its hidden modules."""


@dataclass(frozen=True)
class HiddenPlan:
    """One hidden module to be: its blocks and what it takes and gives."""

    backbone: BackboneSpec
    blocks: tuple[str, ...]
    hidden: HiddenSpec
    takes: Shape
    gives: Shape
    source: str | None = None
    """Name of the stored module that it starts from, once that is known to fit."""
    source_data: tuple[DatasetFacts, ...] = ()
    """What that one had learnt from."""

    @property
    def features(self) -> int:
        """How many features an output module takes of it, of one example."""
        kernel = make_kernel(self.hidden.kernel)
        if not kernel.has_features:
            return self.hidden.kernel.centres
        return kernel.features(torch.zeros(1, *self.gives)).shape[1]

    def spec(
        self,
        upstream: str | tuple[Upstream, ...],
        preprocessing: Preprocessing,
        dataset: DatasetFacts,
        seed: int,
    ) -> HiddenModuleSpec:
        """The module's spec on a known upstream (a module id, or the preprocessing's) or several.

        Raises:
            SpecError: fixed views for a module that stands on no other, or a module to start from
                that nobody has looked up.
        """
        if self.hidden.start_from is not None and self.source is None:
            raise SpecError(
                "Modules start from stored ones in 'train', 'train-module' and 'retrain' alone: "
                "leave 'start_from' out here."
            )
        interface = Interface(
            upstream=upstream, takes=self.takes, gives=self.gives, kernel=self.hidden.kernel
        )
        if self.hidden.recipe.views is not None and interface.stands_on == (preprocessing.id,):
            raise SpecError(
                "Fixed views save running the stored modules below for every epoch, and a first "
                "module has none below: leave 'views' out of its recipe, fresh ones cost no more."
            )
        return HiddenModuleSpec(
            interface=interface,
            dataset=dataset,
            seed=seed,
            preprocessing=preprocessing,
            backbone=self.backbone,
            blocks=self.blocks,
            # Where a cut lies is told by the blocks, however the user named it.
            hidden=self.hidden.changed(
                until=self.blocks[-1],
                objective=view_objective(self.hidden.objective, dataset.pairs is not None),
            ),
            source=self.source,
            source_data=self.source_data,
        )

    def starting_from(self, module_id: str, name: str, spec: ModuleSpec) -> HiddenPlan:
        """The same, from the weights of a stored module.

        Raises:
            InterfaceError: that one has other blocks or shapes.
            SpecError: the share of blocks to freeze is less than one of them.
        """
        mine = _described(self.backbone, self.blocks, self.takes, self.gives)
        backbone, theirs = None, "a stitch" if spec.kind == "stitch" else "an output module"
        if spec.kind == "hidden" or spec.kind == "imported":
            interface, backbone = spec.interface, spec.backbone
            theirs = _described(backbone, spec.blocks, interface.takes, interface.gives)
        if (backbone, theirs) != (self.backbone, mine):
            raise InterfaceError(
                f"Module {module_id[:12]} ({name}) is {theirs}, and one that starts from it must "
                f"be of the same blocks and shapes, not {mine}: name another module in "
                "'start_from', or its backbone and last block ('until')."
            )
        if self.hidden.freeze and not self.hidden.frozen(self.blocks):
            raise SpecError(
                f"freeze: {self.hidden.freeze:g} of {len(self.blocks)} blocks is none of them: "
                "give a larger share, or leave it out."
            )
        started = self.hidden.changed(start_from=module_id)
        return replace(self, hidden=started, source=name, source_data=spec.learnt_from)


def _described(backbone: BackboneSpec, blocks: Sequence[str], takes: Shape, gives: Shape) -> str:
    of = backbone.name if backbone.width is None else f"{backbone.name} of width {backbone.width}"
    return f"{blocks[0]} to {blocks[-1]} of {of} from {list(takes)} to {list(gives)}"


def plan_hidden(
    backbone: BackboneSpec,
    hidden: Sequence[HiddenSpec],
    takes: Shape,
    start_after: str | None = None,
    to_end: bool = True,
    where: str = EACH,
) -> tuple[HiddenPlan, ...]:
    """Cut a backbone into hidden modules and find their shapes.

    Args:
        backbone: what is cut.
        hidden: one description a module.
        takes: shape of one example before the first of them.
        start_after: use only the blocks after this one.
        to_end: whether the last module must reach the backbone's last block.
        where: what the user wrote the modules in, for messages; {} is the number, from 0.

    Raises:
        CutError, UnknownNameError, ObjectiveError, InterfaceError: the plan cannot be, or a tail.
    """
    plans = []
    cuts = cut(backbone, hidden, start_after, to_end)
    start = takes
    course: list[Placed] | None = None
    for index, (asked, blocks) in enumerate(zip(hidden, cuts, strict=True)):
        field = where.format(index)
        skeleton, gives = build_skeleton(backbone, blocks, takes)
        check_weights(skeleton, blocks, field)
        spec = asked.changed(kernel=fitting(asked.kernel, gives))
        with _naming(f"{field}.kernel"):
            lookup(KERNELS, spec.kernel.name, "kernel")  # 'joined' is no choice.
            kernel = make_kernel(spec.kernel)
            kernel.gram(*[torch.zeros(1, *gives)] * 2)  # Refuses a shape that it cannot take.
        with _naming(f"{field}.objective"):
            make_objective(spec.objective, kernel)
        if spec.tail == "auto" and to_end and index == len(cuts) - 1:
            spec = spec.changed(tail="none")  # One on the last module takes from the output's.
        if spec.tail != "none" and not isinstance(spec.tail, Projection):
            course = course or course_of(backbone, start, start_after)
            with _naming(f"{field}.tail"):
                spec = spec.changed(tail=resolve_tail(spec.tail, backbone, blocks[-1], course))
        plans.append(HiddenPlan(backbone, blocks, spec, takes, gives))
        takes = gives
    return tuple(plans)


def plan_network(spec: NetworkSpec, info: DatasetInfo) -> tuple[HiddenPlan, ...]:
    """Plan a network's hidden modules, and check that its data can train all of it.

    Raises:
        PairError, InterfaceError: see `check_hidden`.
        DataError, LabelBudgetError: the output module cannot be trained.
        CutError, UnknownNameError, ObjectiveError, InterfaceError: see `plan_hidden`.
        SpecError: the hidden modules cannot be trained together, see `check_together`.
    """
    if spec.in_one_pass:
        check_together(spec.hidden)
    check_hidden(spec.hidden, info, spec.pairs)
    if spec.output is not None:
        check_output(spec.output, info)
    return plan_hidden(spec.backbone, spec.hidden, info.preprocessing.shape)


def check_hidden(
    hidden: Sequence[HiddenSpec], info: DatasetInfo, pairs: str | None = None, where: str = EACH
) -> None:
    """Check that a data set can train hidden modules.

    Args:
        hidden: how they are trained.
        info: what they are trained on.
        pairs: what they are trained on in place of class labels, as `NetworkSpec.pairs`.
        where: as of `plan_hidden`.

    Raises:
        PairError: no labels and no pairs to train on, no same pair where an objective needs one, or
            batches too small for pairs.
        UnknownNameError: there is no such objective.
        InterfaceError: crop or flip of examples that are no images.
        SpecError: views beside another kind of random change.
    """
    sources = pairs_from(pairs)
    if not info.labelled and sources.labels:
        raise PairError(
            f"Data set '{info.name}' has no class labels: set 'pairs: views', which needs none, "
            "give a file of pairs in the spec's 'pairs', or sort the images into one folder a "
            "class."
        )
    by_class = pairs is None
    if by_class and info.train_counts is not None and max(info.train_counts) < 2:
        for index, name in enumerate(each.objective.name for each in hidden):
            if lookup(OBJECTIVES, name, "objective").needs_same:
                raise PairError(
                    f"{where.format(index)}: No class of data set '{info.name}' has two of the "
                    f"{info.n_train} examples of its training part, and objective '{name}' needs "
                    "pairs of one class: add examples, set another dataset.split_seed or a smaller "
                    "dataset.validation_fraction, or use an objective for different pairs alone "
                    "(its name ends in _neo)."
                )
    example = torch.zeros(1, *info.preprocessing.shape)
    for index, recipe in enumerate(spec.recipe for spec in hidden):
        field = f"{where.format(index)}.recipe"
        least = SMALLEST_CLASS_BATCH if by_class else SMALLEST_PAIR_BATCH
        if recipe.batch_size < (SMALLEST_VIEW_BATCH if sources.views else least):
            kind = f"of {len(info.classes)} classes" if by_class else "of a list"
            raise PairError(
                f"{field}: A batch_size of {recipe.batch_size} cannot hold a same and a different "
                f"pair {kind}: use at least {least}."
            )
        if sources.views:
            with _naming(field):
                check_views(recipe, example)
        elif recipe.augments:
            with _naming(field):  # Refuses vectors.
                augment(example, recipe.crop_padding, recipe.flip, torch.Generator())


@contextmanager
def _naming(field: str) -> Iterator[None]:
    """Name the field in an error that does not know of it."""
    try:
        yield
    except ModkernelError as error:
        error.args = (f"{field}: {error}",)
        raise


def output_spec(
    output: OutputSpec,
    below: ModuleSpec | Sequence[ModuleSpec],
    below_id: str | tuple[Upstream, ...],
    info: DatasetInfo,
    seed: int,
    kernel: KernelSpec | None = None,
    labels: LabelList | None = None,
    weights: Literal["aligned"] | None = None,
    unlabelled_fingerprint: str | None = None,
) -> OutputModuleSpec:
    """The spec of an output module on a hidden module, or on several side by side.

    Args:
        output: how it is trained.
        below: spec of the hidden module; of several, theirs in order.
        below_id: id of the hidden module; of several, theirs with their weights.
        info: data it is trained on.
        seed: of label draws and order.
        kernel: whose feature map it takes; the hidden module's if left out. On several there is no
            choice: it takes the features of each under its own.
        labels: the only ones it is trained on, if they are given by hand.
        weights: how those of several were chosen, where held-out labels did.
        unlabelled_fingerprint: of the examples without a label that may take part.

    Raises:
        InterfaceError: one of several has no features.
    """
    specs = tuple(below) if isinstance(below, Sequence) else (below,)
    interfaces = [spec.interface for spec in specs]
    takes = interfaces[0].gives
    if len(specs) > 1:
        takes, kernel = joined_shape(interfaces), JOINED_KERNEL
    classes = info.classes if labels is None else labels.classes
    known = facts(
        info,
        labels_fingerprint=None if labels is None else labels.fingerprint,
        unlabelled_fingerprint=unlabelled_fingerprint,
    )
    return OutputModuleSpec(
        interface=Interface(
            upstream=below_id,
            takes=takes,
            gives=(len(classes),),
            kernel=fitting(kernel or interfaces[0].kernel, takes),
        ),
        dataset=known,
        seed=seed,
        preprocessing=specs[0].preprocessing,
        output=output,
        classes=classes,
        weights=weights if len(specs) > 1 else None,
    )


def facts(
    info: DatasetInfo,
    pairs_fingerprint: str | None = None,
    labels_fingerprint: str | None = None,
    *,
    pairs: str | None = None,
    unlabelled_fingerprint: str | None = None,
) -> DatasetFacts:
    """What a module's spec says of its data.

    Args:
        info: the data.
        pairs_fingerprint: of the file of pairs that a hidden module is trained on.
        labels_fingerprint: of the file of labels that an output module is trained on.
        pairs: as `NetworkSpec.pairs`: whether views are compared, and labels with them.
        unlabelled_fingerprint: of the examples without a label that take part.
    """
    return DatasetFacts(
        name=info.name,
        fingerprint=info.fingerprint,
        classes=info.classes,
        pairs_fingerprint=pairs_fingerprint,
        labels_fingerprint=labels_fingerprint,
        pairs=pairs_from(pairs).fact,
        unlabelled_fingerprint=unlabelled_fingerprint,
    )
