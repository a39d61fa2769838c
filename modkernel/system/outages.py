"""What is away for a while is waited for, and whoever watches is told what and for how long."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

POLL_SECONDS = 1.0
"""Between two tries."""

_log = logging.getLogger(__name__)
_watchers: list[Callable[[str], None]] = [_log.warning]
_away: set[str] = set()
_lock = threading.Lock()


def tell_outages_to(watcher: Callable[[str], None]) -> None:
    """From now on `watcher` is told, from any thread, each outage and its end."""
    if watcher not in _watchers:
        _watchers.append(watcher)


def patiently(
    ask: Callable[[], T], what: str, seconds: float, is_away: Callable[[Exception], bool]
) -> T:
    """What `ask` returns, asked again for so many seconds while what it asks is away.

    Args:
        ask: may be called any number of times.
        what: is asked, as a person is told: without a password.
        seconds: from now, for which it is asked again.
        is_away: whether an error says that it does not answer; any other is raised at once.
    """
    deadline, failed = time.monotonic() + seconds, False
    while True:
        try:
            answer = ask()
        except Exception as error:
            now, failed = time.monotonic(), True
            if now >= deadline or not is_away(error):
                raise
            tell_away(what, seconds)
            time.sleep(min(POLL_SECONDS, deadline - now))
        else:
            if failed:
                tell_back(what)
            return answer


def tell_away(what: str, seconds: float) -> None:
    """Tell whoever watches that something is waited for: once an outage, whoever waits."""
    with _lock:
        if what in _away:
            return
        _away.add(what)
    for watcher in tuple(_watchers):
        watcher(f"{what} does not answer: waiting for it, for {seconds:.0f} s at most.")


def tell_back(what: str) -> None:
    """Tell that it answers, if it was told to be away."""
    with _lock:
        if what not in _away:
            return
        _away.discard(what)
    for watcher in tuple(_watchers):
        watcher(f"{what} answers again.")
