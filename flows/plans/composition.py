"""A composition before anything is trained: what it stands on, and whether it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modkernel.data import DatasetInfo, LabelList
from modkernel.data.label_budget import check_output, check_whole
from modkernel.errors import ScoreError, SpecError
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_is_hidden, check_labelled
from modkernel.flows.plans.steps import Below
from modkernel.flows.specs.composition import Aligned, Weights
from modkernel.registry import ModuleRecord, Registry
from modkernel.registry.advice.shelf import learnt_by, saw_pairs_of
from modkernel.spec import DatasetSpec, OutputSpec

REMEDY = "give the weights, or leave them out for equal ones."
"""What to do where held-out examples cannot choose weights."""


@dataclass(frozen=True)
class Composition:
    """What a composition was resolved to.

    Attributes:
        tops: the modules side by side.
        below: what the output module stands on; with 'aligned' weights 1 each, until they are
            chosen.
        dataset: that it is trained on.
        info: the same.
        labels: the file of labels as it was read, if there is one.
        unlabelled: fingerprint of the examples without a label that may take part.
    """

    tops: tuple[ModuleRecord, ...]
    below: Below
    dataset: DatasetSpec
    info: DatasetInfo
    labels: LabelList | None
    unlabelled: str | None


def plan_composition(
    registry: Registry,
    hidden: Sequence[str],
    dataset: DatasetSpec | None,
    output: OutputSpec,
    labels: str | None,
    weights: Weights | Aligned | None,
) -> Composition:
    """Resolve a composition, and refuse what cannot be; arguments as of `compose_network`.

    Raises:
        NotFoundError, AmbiguousError: a reference names no module, or several.
        SpecError: a file of labels and a budget of labels, or weights that are not one a module.
        DataError, ClassError: the data or the file of labels are wrong.
        InterfaceError: a module does not take the data, or is no hidden module, or several cannot
            stand side by side.
        LabelBudgetError: more labels than there are.
        ScoreError: see `check_saw_no_pairs`, where the weights are to be chosen.
    """
    registry.promotions.sync_named(hidden)
    tops = tuple(registry.modules.resolve(reference) for reference in hidden)
    for top in tops:
        check_is_hidden(top)
    if isinstance(weights, str) and len(tops) < 2:
        raise SpecError("The weight of a single module says nothing: leave 'weights' out.")
    below = Below.of_records(tops, None if isinstance(weights, str) else weights)
    whole, info = datasets.for_join(registry, tops, dataset)
    if labels is None:
        check_output(output, info)
    else:
        check_whole(output)
    given = None if labels is None else datasets.check_labels(registry, whole, labels)
    aside = datasets.check_unlabelled(registry, whole, info, output, given)
    if isinstance(weights, str):
        check_labelled(info, "which weights are chosen by")
        check_saw_no_pairs(registry, tops, info)
    return Composition(tops, below, whole, info, given, aside)


def check_saw_no_pairs(registry: Registry, tops: Sequence[ModuleRecord], info: DatasetInfo) -> None:
    """Check that no list of pairs let modules see the held-out examples of some data.

    Raises:
        ScoreError: one did, so that they cannot choose its weight.
    """
    for top in tops:
        if registry.advice.shelf.saw_pairs(learnt_by(registry.modules.chain(top)), info):
            raise ScoreError(f"{saw_pairs_of(top)} They choose no weights for it: {REMEDY}")
