"""Look names up in literal tables; reach a user's own object by import path.

Whoever asks for an import path may import what it names. One that was stored was written by
somebody else, perhaps: it is imported only if it, or its package, is trusted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, TypeVar

from modkernel.errors import SpecError, UnknownNameError
from modkernel.spec import BackboneSpec, DatasetSpec, Spec

T = TypeVar("T")

TRUST_VARIABLE = "MODKERNEL_TRUSTED_PACKAGES"
"""The setting that names the packages which stored specs may name."""
OWN = "your own, as 'package.module:attribute'"
"""What may stand beside the names of a table, for the message of an unknown one."""
_trusted: ContextVar[tuple[str, ...]] = ContextVar("trusted", default=())


def lookup(table: Mapping[str, T], name: str, kind: str, own: str = "") -> T:
    """Return `table[name]`.

    Args:
        table: what there is.
        name: the wanted one.
        kind: what it names, for the message.
        own: what may be named besides, for the message.

    Raises:
        UnknownNameError: the name is not in the table; the message lists those that are.
    """
    try:
        return table[name]
    except KeyError:
        raise UnknownNameError(kind, name, table, own) from None


def is_import_path(name: str) -> bool:
    """Whether a name has the form `package.module:attribute`."""
    return ":" in name


def import_object(path: str, kind: str) -> Any:
    """Import `package.module:attribute`.

    Raises:
        SpecError: the module or the attribute cannot be imported, or the module's own code fails;
            the message says why.
    """
    module_name, _, attribute = path.partition(":")
    try:
        return getattr(import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"Cannot import {kind} '{path}': {error}. Write it as 'package.module:attribute' "
            "and make the package importable (pip install it, or set PYTHONPATH)."
        ) from None
    except Exception as error:
        raise SpecError(
            f"Cannot import {kind} '{path}': its code raised {type(error).__name__}: {error}. "
            "Fix that module."
        ) from error


def import_paths(value: object) -> Iterator[str]:
    """The import paths of backbones and data sets in a spec, or in a collection of values."""
    if isinstance(value, BackboneSpec | DatasetSpec):
        if is_import_path(value.name):
            yield value.name
    elif isinstance(value, Spec):
        yield from import_paths(tuple(dict(value).values()))
    elif isinstance(value, Mapping):
        yield from import_paths(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for item in value:
            yield from import_paths(item)


def package_of(path: str) -> str:
    """The top-level package of an import path."""
    return path.partition(":")[0].partition(".")[0]


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """Within the block what is stored may name these import paths, and all of these packages.

    Args:
        names: 'package.module:attribute' for one object, 'package' for all that is in it. They
            are added to what is trusted already.
    """
    token = _trusted.set(tuple(dict.fromkeys((*_trusted.get(), *names))))
    try:
        yield
    finally:
        _trusted.reset(token)


def trusted_names() -> tuple[str, ...]:
    """The import paths and packages that are trusted here, to hand on to another process."""
    return _trusted.get()


def check_trusted(name: str, what: str) -> None:
    """Check that a name out of something stored may be looked up; built-in ones always may.

    Args:
        name: a built-in name or an import path. Nothing is imported.
        what: what names it, for the message: "The stored module 0123456789ab names backbone".

    Raises:
        SpecError: it is an import path, and neither it nor its package is trusted.
    """
    if not is_import_path(name) or not {name, package_of(name)}.isdisjoint(_trusted.get()):
        return
    raise SpecError(
        f"{what} '{name}', and code that something stored names runs only if its package is "
        f"trusted: if you trust all code of '{package_of(name)}', add it to {TRUST_VARIABLE} "
        "(names with commas between)."
    )
