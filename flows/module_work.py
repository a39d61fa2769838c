"""The flow that trains or measures one module for another flow, on a machine of the team."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_type_hints

from prefect.states import Completed
from pydantic import ValidationError, create_model

from modkernel.errors import ModkernelError, SettingsError, SpecError, StoppedError
from modkernel.flows.runtime.explain import explain
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.flows.runtime.shared import fork_server
from modkernel.flows.search.score import score_stored_module
from modkernel.flows.tasks.ground_truth import measure_stored_ground_truth
from modkernel.flows.tasks.measure import measure_stored_module
from modkernel.flows.tasks.train import train_stored_module
from modkernel.flows.tasks.train_together import train_stored_group
from modkernel.flows.tasks.train_whole import train_whole
from modkernel.flows.team.dispatch import FLOW
from modkernel.flows.team.machines import this_host
from modkernel.flows.team.needs import Needs
from modkernel.jobs.failures import ERRORS
from modkernel.lookup import trusting

TaskName = Literal["train", "train_together", "measure", "score", "ground_truth", "train_whole"]
TASKS: dict[TaskName, Any] = {
    "train": train_stored_module,
    "train_together": train_stored_group,
    "measure": measure_stored_module,
    "score": score_stored_module,
    "ground_truth": measure_stored_ground_truth,
    "train_whole": train_whole,
}
"""What a run may do for other flows, by the names that `team.dispatch.Work` has."""


@form_flow(FLOW)
def module_work(
    task: TaskName, arguments: dict[str, Any], needs: Needs, trusted: tuple[str, ...] = ()
) -> Any:
    """Do a task of another flow here; that flow waits for it, and finds what it stores.

    What is not stored, such as a score, is the message of the run's last state.

    Args:
        task: what to do.
        arguments: of it.
        needs: what this machine must have; the worker has seen to all but the version, which an
            engine without one, such as Kubernetes, leaves to this.
        trusted: import paths and packages that the flow that asks trusts.

    Raises:
        ModkernelError: what ended it, with the name of this machine.
    """
    host = this_host()
    if needs.version != OUR_VERSION:
        raise SettingsError(
            f"{host} has modkernel {OUR_VERSION}, and {needs.version} is needed: install that "
            "version there, or ask with this one."
        )
    fork_server().start()
    try:
        with trusting(trusted):
            result = TASKS[task](**_typed(TASKS[task], arguments))
    except StoppedError:
        raise
    except ModkernelError as error:
        kind = ERRORS.get(type(error).__name__, ModkernelError)
        raise kind(f"On {host}: {error}") from None
    return Completed(message=result) if isinstance(result, str) else None


def _typed(task: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the types that the task's function names.

    Raises:
        SpecError: they do not fit: another version has sent them.
    """
    function = getattr(task, "fn", task)
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters.items()
    fields: dict[str, Any] = {
        name: (hints[name], ... if one.default is one.empty else one.default)
        for name, one in parameters
    }
    model = create_model("Arguments", **fields)
    try:
        given = model.model_validate(arguments)
    except ValidationError as error:
        raise SpecError(explain(error, model)) from None
    return {name: getattr(given, name) for name in fields}
