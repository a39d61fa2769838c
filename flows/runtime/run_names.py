"""Names of flow runs: what a person typed stays, what Prefect made up is replaced."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from coolname.data import config
from prefect.context import FlowRunContext


def named(template: str) -> Callable[[], str]:
    """Name runs by a template over the flow's parameters, unless a person named them.

    Args:
        template: as of `str.format`, such as "{spec.name}".
    """

    def name() -> str:
        context = FlowRunContext.get()
        assert context is not None
        assert context.flow_run is not None
        given = context.flow_run.name
        return template.format(**(context.parameters or {})) if is_made_up(given) else given

    return name


def is_made_up(name: str) -> bool:
    """Whether a run's name is one that Prefect makes up, such as 'brave-otter'."""
    words = name.split("-")
    return len(words) > 1 and _words().issuperset(words)


@cache
def _words() -> frozenset[str]:
    """All that Prefect makes names of: it draws them by coolname."""
    lists = (entry.get("words", ()) for entry in config.values() if isinstance(entry, dict))
    return frozenset(word for words in lists for word in words)
