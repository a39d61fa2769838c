"""Check that a search can be carried out, whichever candidates win, and make its modules' specs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from modkernel.backbones.cut import cut
from modkernel.data import DatasetInfo
from modkernel.data.label_budget import check_output
from modkernel.errors import ModkernelError, SettingsError, SpecError
from modkernel.features.measure import EXAMPLES_PER_CLASS, VALIDATION_PER_CLASS
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_labelled
from modkernel.flows.plans.steps import Below
from modkernel.flows.search.score import check_score
from modkernel.flows.search.spec import ACCURACY, Candidate, SearchSpec
from modkernel.plan import HiddenPlan, check_hidden, facts, plan_hidden
from modkernel.registry import Registry
from modkernel.reuse.moments import check_size
from modkernel.spec import DatasetFacts, HiddenSpec, ModuleSpec, Shape


@dataclass(frozen=True)
class SearchPlan:
    """A search whose candidates all fit on one another.

    Attributes:
        spec: what was asked for.
        info: the data.
        facts: what every module's spec says of the data.
        ends: the block that each stage ends at where its candidate does not say.
        unlabelled: fingerprint of the examples without a label that may take part.
    """

    spec: SearchSpec
    info: DatasetInfo
    facts: DatasetFacts
    ends: tuple[str, ...]
    unlabelled: str | None

    def module(
        self,
        stage: int,
        candidate: Candidate,
        below: Below,
    ) -> ModuleSpec:
        """The spec of a candidate on what is below it.

        Args:
            stage: from 0.
            candidate: of that stage.
            below: what it stands on: the data in the first stage.
        """
        plan = self.cut(stage, candidate, below.gives, below.last_block)
        return plan.spec(below.upstream, below.preprocessing, self.facts, self.spec.seed)

    def cut(
        self, stage: int, candidate: Candidate, takes: Shape, start_after: str | None
    ) -> HiddenPlan:
        """A candidate's blocks and shapes after a block.

        Raises:
            CutError, InterfaceError, UnknownNameError, ObjectiveError: see `plan_hidden`.
        """
        backbone = self.spec.backbone
        if candidate.width is not None:
            backbone = backbone.changed(width=candidate.width)
        last = stage == len(self.ends) - 1
        hidden = [candidate.hidden(self.ends[stage])]
        (plan,) = plan_hidden(backbone, hidden, takes, start_after, to_end=last)
        return plan


def plan_search(registry: Registry, spec: SearchSpec) -> SearchPlan:
    """Resolve a search, and check that every candidate fits on every candidate before it.

    Raises:
        UnknownNameError: there is no such score, backbone, kernel or objective.
        SpecError: two candidates of a stage are the same module.
        DataError, LabelBudgetError: data that is missing, has no labels, or too few.
        CutError, InterfaceError: a candidate does not fit on one of the stage before it, or one of
            the last stage does not reach the backbone's end; the message names it.
        MomentsError: a candidate has more features than class moments are stored of.
        SettingsError: the feature cache is too small to compare candidates by their accuracy.
    """
    check_score(spec.score)
    info = datasets.describe(registry, spec.dataset)
    check_labelled(info, "which a search compares candidates by")
    check_output(spec.output, info)
    aside = datasets.check_unlabelled(registry, spec.dataset, info, spec.output)
    evenly = cut(spec.backbone, [HiddenSpec()] * len(spec.stages))
    plan = SearchPlan(spec, info, facts(info), tuple(blocks[-1] for blocks in evenly), aside)
    # Many chains of candidates lead to the same shape after the same block.
    reached: set[tuple[Shape, str | None]] = {(info.preprocessing.shape, None)}
    for stage, wanted in enumerate(spec.stages):
        before, reached = reached, set()
        upstream = info.preprocessing.id if stage == 0 else "any module"
        made: list[list[str]] = []
        for number, candidate in enumerate(wanted.candidates, start=1):
            with _naming(stage + 1, number):
                check_hidden([candidate], info)
                steps = [plan.cut(stage, candidate, *below) for below in before]
                for step in steps:
                    check_size(len(info.classes), step.features)
                    if spec.score == ACCURACY:
                        _check_room(info, step.features, registry.settings.feature_cache_bytes)
                    reached.add((step.gives, step.blocks[-1]))
            specs = [
                step.spec(upstream, info.preprocessing, plan.facts, spec.seed) for step in steps
            ]
            made.append([module.digest() for module in specs])
            _check_different(stage + 1, made)
    return plan


def _check_different(stage: int, made: Sequence[Sequence[str]]) -> None:
    """Check that the last candidate comes to other digests than those before it.

    Equal modules would take two places of the beam, and be one.
    """
    first = made.index(made[-1]) + 1
    if first < len(made):
        raise SpecError(
            f"Candidates {first} and {len(made)} of stage {stage} are the same module: leave one "
            "of them out."
        )


def _check_room(info: DatasetInfo, features: int, limit: int) -> None:
    """Check that the measured features of one module fit into the feature cache."""
    assert info.train_counts is not None
    examples = sum(min(count, EXAMPLES_PER_CLASS) for count in info.train_counts)
    examples += min(info.n_validation + info.n_borrowed, VALIDATION_PER_CLASS * len(info.classes))
    # A float32 a feature, an int64 for the class, and the headers of two files.
    size = examples * (4 * features + 8) + 2 * 4096
    if size > limit:
        raise SettingsError(
            f"The {features} features of {examples} measured examples take {size} bytes, and the "
            f"feature cache may take {limit}: set MODKERNEL_FEATURE_CACHE_BYTES to at least "
            f"{size}, or search by a score of moments ('score: logme')."
        )


@contextmanager
def _naming(stage: int, candidate: int) -> Iterator[None]:
    """Name the candidate in an error that does not know of it."""
    try:
        yield
    except ModkernelError as error:
        told = str(error).removeprefix("hidden[0].")
        error.args = (f"Candidate {candidate} of stage {stage}: {told}",)
        raise
