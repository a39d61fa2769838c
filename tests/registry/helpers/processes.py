"""Child processes that begin with everything imported."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["modkernel.registry", "tests.registry.helpers.processes"])


def start(function: Callable[..., None], *arguments: Any) -> Any:
    """Start `function(*arguments)` in a process of its own."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process
