"""The flow that promotes a module once a person has seen how it does beside the present one."""

from __future__ import annotations

from typing import Literal

from prefect.context import FlowRunContext
from prefect.flow_runs import suspend_flow_run
from prefect.input import (
    RunInput,
    create_flow_run_input,
    delete_flow_run_input,
    read_flow_run_input,
)
from pydantic import Field

from modkernel.data import DatasetInfo
from modkernel.errors import SpecError
from modkernel.flows.display.artifacts import artifact_key, leave_page, table
from modkernel.flows.plans import datasets
from modkernel.flows.plans.checks import check_is_hidden, check_labelled
from modkernel.flows.runtime.events import Note, emit
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.run_names import named
from modkernel.flows.runtime.shared import fork_server, open_registry
from modkernel.flows.tasks.ground_truth import measure_stored_ground_truth
from modkernel.registry import ModuleRecord, Registry
from modkernel.reuse.ground_truth import GroundTruthSpec
from modkernel.reuse.task import Task
from modkernel.spec import DatasetSpec, OutputSpec, Spec

DECIDED_WITHIN = 14 * 24 * 3600
"""Seconds for which a run waits for its decision; then it fails, and nothing was promoted."""
OUTPUT = OutputSpec(method="ridge")
"""What is trained on both to compare them: of a closed form, the same at each attempt."""
SEED = 0
PAUSE = "promotion"
"""Key of the suspension. That of former versions, which did not keep what they asked, was another:
a run that waits since then asks once more."""
ASKED = "asked"
"""Key under which Prefect keeps, with the run, what a person was asked."""


class Decision(RunInput):
    """What a person is asked for on Prefect's page."""

    promote: bool = Field(False, description="Whether the alias means the candidate from now on.")
    comment: str = Field("", description="Why; it is kept in the history of promotions.")


class Measured(Spec):
    """How a module did: a fresh output module on it, on the test part."""

    id: str
    """Of the module."""
    module: str
    """NAME/VERSION."""
    accuracy: float
    balanced_accuracy: float
    worst_accuracy: float
    """Of the class of least accuracy."""
    tested: int | None = None
    """Test examples that it was compared on; none where it is not known."""
    seen: int | None = None
    """Of these: how many its chain had seen, there being no others; none where it is not known."""
    of_tests: int
    """That the data have: those that a module's chain has seen are left out, of each its own."""


class Asked(Spec):
    """What a person decides on: these two modules, whatever else is stored or moved meanwhile."""

    candidate: Measured
    present: Measured | None
    """What the alias meant; none where it meant nothing."""


class PromotionResult(Spec):
    """What was compared, and what became of it."""

    alias: str
    candidate: Measured
    present: Measured | None
    """What the alias meant before; none where it meant nothing."""
    decision: Literal["promoted", "kept", "same"]
    comment: str


@form_flow("promote-module", flow_run_name=named("{module} → {alias}"))
def promote_module(module: str, alias: str, dataset: DatasetSpec | None = None) -> PromotionResult:
    """Compare a stored hidden module with the one that an alias means, and ask who may decide.

    The run is suspended until somebody resumes it on Prefect's page, with a decision and a comment;
    it needs no process meanwhile, and a machine that restarts loses nothing. The decision is on the
    two modules that were shown: versions that are stored meanwhile have no part in it.

    Args:
        module: the candidate, a stored hidden module.
        alias: of its name, such as production.
        dataset: what both are compared on; the candidate's own data if left out.

    Raises:
        NotAllowedError: the alias is protected; whoever serves this flow may not move it.
        InterfaceError: the data do not fit one of them, or it is no hidden module.
        SpecError: the alias was moved while the run waited, and the candidate was to be promoted.
        ModkernelError: a reference or the data are wrong; later, what ended the measuring.
    """
    fork_server().start()
    registry = open_registry()
    # Suspended, it begins again from the top, when references may name other modules.
    asked = _asked_before()
    if asked is None:
        candidate = registry.modules.resolve(module)
        check_is_hidden(candidate)
        registry.promotions.check_may_move(alias)
        present = _present(registry, candidate.name, alias)
        asked = _compared(registry, candidate, present, dataset)
        if present is not None and present.id == candidate.id:
            emit(Note(f"{candidate.name}@{alias} means version {candidate.version} already."))
            return PromotionResult(alias=alias, **dict(asked), decision="same", comment="")
        leave_page(
            _page(alias, asked),
            key=artifact_key("promotion", f"{candidate.name} {alias}"),
            description=f"{asked.candidate.module} for @{alias}",
        )
        _keep(asked)
    decided = suspend_flow_run(
        wait_for_input=Decision.with_initial_data(
            description=_page(alias, asked), promote=False, comment=""
        ),
        timeout=DECIDED_WITHIN,
        key=PAUSE,
    )
    name = asked.candidate.module.partition("/")[0]
    if decided.promote:
        _check_not_moved(_present(registry, name, alias), alias, asked)
        # By its id: a repair may have given it another version.
        version = registry.modules.resolve(asked.candidate.id).version
        assert version is not None, "what is ready has a version"
        why = decided.comment or f"accuracy {asked.candidate.accuracy:.4f}"
        registry.promotions.promote(name, alias, version, why)
    now = asked.candidate.module if decided.promote else "what it did"
    emit(Note(f"{name}@{alias} means {now}: {decided.comment or 'no comment'}."))
    return PromotionResult(
        alias=alias,
        **dict(asked),
        decision="promoted" if decided.promote else "kept",
        comment=decided.comment,
    )


def _asked_before() -> Asked | None:
    """What the run was suspended with; none where it begins, or a person has it retried."""
    context = FlowRunContext.get()
    run = None if context is None else context.flow_run
    if run is None or PAUSE not in (run.empirical_policy.pause_keys or ()):
        return None
    return Asked.model_validate(read_flow_run_input(ASKED))


def _keep(asked: Asked) -> None:
    """Have Prefect keep what is asked with the run, in place of what an earlier attempt asked."""
    if read_flow_run_input(ASKED) is not None:
        delete_flow_run_input(ASKED)
    create_flow_run_input(ASKED, asked.model_dump(mode="json"))


def _check_not_moved(now: ModuleRecord | None, alias: str, asked: Asked) -> None:
    before = asked.present
    if now is not None and now.id == asked.candidate.id:
        return
    if (now and now.id) != (before and before.id):
        raise SpecError(
            f"@{alias} means {'nothing' if now is None else f'{now.name}/{now.version}'} by now, "
            f"and the decision was taken beside {'nothing' if before is None else before.module}: "
            f"{asked.candidate.module} was not promoted. Retry this run, which compares and asks "
            "anew."
        )


def _present(registry: Registry, name: str, alias: str) -> ModuleRecord | None:
    if not alias or "@" in alias:
        raise SpecError(f"'{alias}' is no alias: write it as 'production', without the '@'.")
    aliases = registry.backends.models.aliases(name)
    if alias not in aliases:
        return None
    return registry.modules.resolve(f"{name}@{alias}")


def _compared(
    registry: Registry,
    candidate: ModuleRecord,
    present: ModuleRecord | None,
    dataset: DatasetSpec | None,
) -> Asked:
    """The candidate's figures and the present module's, on the same data."""
    whole, info = datasets.for_chain(registry, candidate, dataset)
    check_labelled(info, "on which modules are compared")
    if present is not None:
        datasets.check_chain_trusted(registry, present)
        datasets.check_fits(info, present)
    return Asked(
        candidate=_measured(candidate, whole, info),
        present=None if present is None else _measured(present, whole, info),
    )


def _measured(module: ModuleRecord, dataset: DatasetSpec, info: DatasetInfo) -> Measured:
    task = Task.of_classes(info.classes)
    spec = GroundTruthSpec(
        module_id=module.id,
        fingerprint=info.fingerprint,
        own=task if module.spec.dataset.fingerprint == info.fingerprint else None,
        targets=(task,),
        output=OUTPUT,
        seed=SEED,
    )
    name = f"{module.name}/{module.version}"
    _, truth = measure_stored_ground_truth(name, spec, dataset)
    return Measured(
        id=module.id,
        module=name,
        accuracy=truth.accuracy[0],
        balanced_accuracy=truth.balanced_accuracy[0],
        worst_accuracy=truth.worst_accuracy[0],
        tested=None if truth.left_out is None else info.n_test - truth.left_out,
        seen=truth.seen,
        of_tests=info.n_test,
    )


def _page(alias: str, asked: Asked) -> str:
    candidate, present = asked.candidate, asked.present

    def cells(one: Measured | None) -> list[str]:
        if one is None:
            return ["nothing", "", "", "", "", ""]
        shares = (one.accuracy, one.balanced_accuracy, one.worst_accuracy)
        tested = "not known" if one.tested is None else f"{one.tested} of {one.of_tests}"
        seen = "not known" if one.seen is None else str(one.seen)
        return [one.module, *(f"{100 * share:.2f} %" for share in shares), tested, seen]

    # Two columns: the dialog in which people decide is narrow.
    head = ("", f"@{alias} now", "candidate")
    names = ("module", "accuracy", "balanced", "worst class", "tested on", "of these, seen")
    rows = [list(row) for row in zip(names, cells(present), cells(candidate), strict=True)]
    told = "Of an output module in closed form on each, on the test part."
    shown = [one for one in (candidate, present) if one is not None]
    counts = {one.tested for one in shown}
    if counts != {candidate.of_tests}:
        told += (
            " Examples that a module or one under it was trained or validated on are left out, of "
            "each its own: the two may be compared on different ones."
        )
    known = [one.module for one in shown if one.seen]
    if known:
        told += (
            f" {' and '.join(known)}, or one under it, was trained or validated on all of the test "
            "examples: there are no others, and these figures say nothing of examples that it does "
            "not know."
        )
    unknown = [one.module for one in shown if one.seen is None]
    if unknown:
        told += (
            f" It is not known of all examples that {' and '.join(unknown)}, or one under it, was "
            "trained on: it may have seen some of these."
        )
    return f"{table(head, rows)}\n\n{told}"
