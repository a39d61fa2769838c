"""MLflow's errors as our own: what it does not have is not found, all else is a failure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from modkernel.errors import DeniedError, NotFoundError, StoreError
from modkernel.registry.settings import masked, sqlite_path
from modkernel.system.files import disk_is_full, has_no_room
from modkernel.system.outages import tell_back

ABSENT = "RESOURCE_DOES_NOT_EXIST"
"""Code by which MLflow answers that it has no such thing."""
DENIED = "PERMISSION_DENIED"
"""Code by which it answers that the account may not do that."""
UNFIT = "INVALID_PARAMETER_VALUE"
"""Code by which it refuses a text; also for an alias that nobody set, and a version 'abc'."""


class HasClient(Protocol):
    """Whatever speaks with MLflow."""

    @property
    def client(self) -> MlflowClient:
        """Its connection."""


P = ParamSpec("P")
T = TypeVar("T")
S = TypeVar("S", bound=HasClient)


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Within the block MLflow's errors become ours: they are no traceback, and show no password.

    Raises:
        NotFoundError: MLflow answered that it has no such thing.
        DeniedError: it answered that the account may not do that.
        StoreError: anything else, which says nothing about what MLflow has.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = failure(uri, error)
        code = getattr(error, "error_code", None)
        if code == ABSENT:
            raise NotFoundError(said) from error
        if code == DENIED:
            raise DeniedError(
                f"{said} The account may not do that: ask whoever owns it, or an administrator."
            ) from error
        raise StoreError(f"{said} Run it again once that is fixed ('modkernel doctor').") from error


def speaks_with_mlflow(
    method: Callable[Concatenate[S, P], T],
) -> Callable[Concatenate[S, P], T]:
    """Run a method of an object that has a `client` within `translated`."""

    @wraps(method)
    def speaking(self: S, /, *arguments: P.args, **named: P.kwargs) -> T:
        uri = self.client.tracking_uri
        with translated(uri):
            answer = method(self, *arguments, **named)
        tell_back(f"MLflow at {masked(uri)}")
        return answer

    return speaking


def is_unfit(error: Exception) -> bool:
    """Whether an error of ours says that MLflow refuses what it was given, however often."""
    return getattr(error.__cause__, "error_code", None) == UNFIT


def failure(uri: str, error: Exception) -> str:
    """One sentence on what MLflow did not do, without the password of its URI."""
    shown, path = masked(uri), sqlite_path(uri)
    if disk_is_full(error) or (path is not None and has_no_room(path.parent)):
        return (
            f"A disk is full, and MLflow at {shown} failed ({first_line(error)}): free some space."
        )
    reason = first_line(error).replace(uri.rstrip("/"), shown.rstrip("/"))
    return f"MLflow at {shown} failed: {reason}."


def first_line(error: Exception) -> str:
    """What an error says, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
