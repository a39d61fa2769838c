"""Child processes that begin with everything imported."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    # Both packages import nothing before it is used: what children use is named here.
    [
        "modkernel.registry.registry",
        "modkernel.modules.stored",
        "tests.registry.helpers.examples",
        # What tests of the registry import: seconds, in each child that runs a function of theirs.
        "tests.registry.conftest",
    ]
)


def start(function: Callable[..., None], *arguments: Any) -> Any:
    """Start `function(*arguments)` in a process of its own."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process
