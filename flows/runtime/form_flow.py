"""A flow whose parameters may come as Prefect's forms save them, and what fills in a short form."""

from __future__ import annotations

import inspect
import logging
from abc import abstractmethod
from collections.abc import Callable
from copy import copy
from functools import cache, wraps
from typing import Any, ParamSpec, Self, TypeVar, cast, get_type_hints

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from prefect.logging import get_logger
from prefect.states import Cancelled
from prefect.utilities.schema_tools.hydration import hydrate
from pydantic import ValidationError, create_model, model_validator

from modkernel.errors import ModkernelError, SpecError, StoppedError
from modkernel.flows.runtime.cancels import cancels_stop_all
from modkernel.flows.runtime.explain import explain
from modkernel.flows.runtime.interrupts import interrupts_stop_all
from modkernel.lookup import import_paths, trusting
from modkernel.registry import Settings
from modkernel.spec import Spec

P = ParamSpec("P")
R = TypeVar("R")

CANCELLED = "Cancelled in Prefect: the same command, or another run, resumes."


class Blanks(Spec):
    """A part of a form: what is left blank is left out, however Prefect's pages save that."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_blanks(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value not in (None, "", [])}


class Form(Blanks):
    """What a person fills in to run a flow: fewer fields than the flow's parameters have."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """The flow's parameters.

        Raises:
            SpecError: some of the fields do not go together.
        """


class FormFlow(Flow[P, R]):
    """A Prefect flow that reads what the schedule form leaves of JSON fields.

    The form saves a JSON field as {"__prefect_kind": "json", "value": "{…}"}, and one that was
    left blank without the value. The server turns that into plain values for a run that a person
    starts, but not for a scheduled one (PrefectHQ/prefect#18701), whose parameters would then be
    refused or, worse, taken for the options of a user's own backbone.
    """

    form: type[Form] | None = None
    """What is filled in in place of the parameters, which are allowed, too."""
    _plain: FormFlow[..., Any] | None = None
    """The flow that a form fills in."""

    def filled_in_by(self, form: type[Form], module: str) -> Self:
        """The same flow, whose parameters are the fields of a form.

        It takes the flow's own parameters too, from programs that have a whole spec.

        Args:
            form: its fields.
            module: where the flow that is returned is to be found, under its function's name.
        """
        run = cast(Callable[..., R], self.fn)

        @wraps(run)
        def filled_in(**parameters: Any) -> R:
            return run(**parameters)

        # Prefect compares the names with those that a run has, before anything is validated.
        names = dict.fromkeys((*form.model_fields, *inspect.signature(run).parameters))
        fields = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names
        ]
        filled_in.__signature__ = inspect.Signature(fields)  # type: ignore[attr-defined]
        made = copy(self)
        made.fn, made.form, made._plain = cast(Any, filled_in), form, self
        made.__module__ = module
        return made

    def validate_parameters(self, parameters: dict[str, Any]) -> dict[str, Any]:
        """The parameters as the types that the flow's signature names.

        Raises:
            SpecError: they do not fit; the sentence names each field.
            ParameterTypeError: something else is wrong with them.
        """
        _errors_are_sentences()
        parameters = hydrate(parameters)
        if self._plain is not None and self.form is not None:
            return self._plain.validate_parameters(self._of_form(self.form, parameters))
        try:
            return super().validate_parameters(parameters)
        except ParameterTypeError as error:
            if not isinstance(error.__context__, ValidationError):
                raise
            hints = get_type_hints(self.fn)
            fields: dict[str, Any] = {name: (hints[name], None) for name in parameters}
            told = explain(error.__context__, create_model("Parameters", **fields))
            raise SpecError(told) from None

    def _of_form(self, form: type[Form], values: dict[str, Any]) -> dict[str, Any]:
        given = {name: value for name, value in values.items() if value is not None}
        others = given.keys() - form.model_fields.keys()
        if others and others <= inspect.signature(self.fn).parameters.keys():
            return given
        try:
            return form.model_validate(given).parameters()
        except ValidationError as error:
            raise SpecError(explain(error, form)) from None


class _Sentences(logging.Filter):
    """Errors on purpose say all there is to say: their log lines are the sentence, no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, ModkernelError):
            record.msg, record.args, record.exc_info = str(error), (), None
        return True


@cache
def _errors_are_sentences() -> None:
    for name in ("flow_runs", "task_runs"):
        get_logger(name).addFilter(_Sentences())


def form_flow(name: str, **options: Any) -> Callable[[Callable[P, R]], FormFlow[P, R]]:
    """Make a function a `FormFlow`, as Prefect's `flow` makes one a flow.

    What is stored may name the code that the parameters name, since whoever gives them may run
    it, and that of the packages which the settings trust; in the flow's children too. What it
    returns is not kept by Prefect: the registry has it. When it is interrupted or cancelled, all
    that it has at work stops.

    Args:
        name: of the flow.
        options: of Prefect's `flow`.
    """

    def decorate(run: Callable[P, R]) -> FormFlow[P, R]:
        @wraps(run)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            trusted = (*Settings().trusted_packages, *import_paths((args, kwargs)))
            with interrupts_stop_all(), cancels_stop_all() as cancelled, trusting(trusted):
                try:
                    return run(*args, **kwargs)
                except StoppedError:
                    if not cancelled.is_set():
                        raise
                    # What a flow returns is its run's state, if it is one.
                    return cast(R, Cancelled(message=CANCELLED))

        # Prefect reads the types of parameters in the globals of the function that it is given.
        guarded.__signature__ = inspect.signature(run, eval_str=True)  # type: ignore[attr-defined]
        return FormFlow(guarded, name=name, persist_result=False, **options)

    return decorate
