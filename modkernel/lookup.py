"""Look names up in literal tables; reach a user's own object by import path."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, TypeVar

from modkernel.errors import SpecError, UnknownNameError

T = TypeVar("T")


def lookup(table: Mapping[str, T], name: str, kind: str) -> T:
    """Return `table[name]`.

    Raises:
        UnknownNameError: the name is not in the table; the message lists those that are.
    """
    try:
        return table[name]
    except KeyError:
        raise UnknownNameError(kind, name, table) from None


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
