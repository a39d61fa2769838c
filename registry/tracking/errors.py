"""What MLflow says when it is asked in vain, as one of our own errors."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from mlflow.exceptions import MlflowException

from modkernel.errors import StoreError
from modkernel.registry.tracking.client import failure

if TYPE_CHECKING:
    from modkernel.registry.registry import Registry

P = ParamSpec("P")
T = TypeVar("T")


def asks_mlflow(
    method: Callable[Concatenate[Registry, P], T],
) -> Callable[Concatenate[Registry, P], T]:
    """Make MLflow's own errors ours: they are no traceback, and show no password."""

    @wraps(method)
    def translated(registry: Registry, /, *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return method(registry, *arguments, **named)
        except MlflowException as error:
            raise StoreError(
                f"{failure(registry.settings, error)} Run it again once that is mended "
                "('modkernel doctor')."
            ) from error

    return translated
