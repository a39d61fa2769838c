"""The flow that trains or measures one module for another flow, on a machine of the team."""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_type_hints

from prefect.states import Failed
from pydantic import ValidationError, create_model

from modkernel.errors import ModkernelError, SpecError, StoppedError
from modkernel.flows.runtime.explain import explain
from modkernel.flows.runtime.form_flow import form_flow
from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.flows.runtime.shared import fork_server
from modkernel.flows.tasks.ground_truth import measure_stored_ground_truth
from modkernel.flows.tasks.measure import measure_stored_module
from modkernel.flows.tasks.train import train_stored_module
from modkernel.flows.tasks.train_whole import train_whole
from modkernel.flows.team.dispatch import FLOW
from modkernel.flows.team.machines import this_host
from modkernel.flows.team.needs import Needs
from modkernel.lookup import import_paths, trusting

TaskName = Literal["train", "measure", "ground_truth", "train_whole"]
TASKS: dict[TaskName, Any] = {
    "train": train_stored_module,
    "measure": measure_stored_module,
    "ground_truth": measure_stored_ground_truth,
    "train_whole": train_whole,
}
"""What a run may do: the tasks of other flows, under the names that `team.dispatch.Work` has."""


@form_flow(FLOW)
def module_work(task: TaskName, arguments: dict[str, Any], needs: Needs) -> Any:
    """Do a task of another flow here; that flow waits for it, and finds what it stores.

    Args:
        task: what to do.
        arguments: of it.
        needs: what this machine must have; the worker has seen to all but the version, which an
            engine without one, such as Kubernetes, leaves to this.
    """
    host = this_host()
    if needs.version != OUR_VERSION:
        return Failed(
            message=f"SettingsError: {host} has modkernel {OUR_VERSION}, and {needs.version} is "
            "needed: install that version there, or ask with this one."
        )
    fork_server().start()
    try:
        typed = _typed(TASKS[task], arguments)
        # The code that these name is what the flow that asks was given by somebody who may.
        with trusting(import_paths(typed)):
            TASKS[task](**typed)
    except StoppedError:
        raise
    except ModkernelError as error:
        return Failed(message=f"{type(error).__name__}: On {host}: {error}")
    return None


def _typed(task: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the types that the task's function names.

    Raises:
        SpecError: they do not fit: another version has sent them.
    """
    hints = get_type_hints(task.fn)
    parameters = inspect.signature(task.fn).parameters.items()
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
