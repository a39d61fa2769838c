"""PostgreSQL that accepts a connection and then does not answer: no wait for it is without end.

A server that is stopped or swapped out, or a network that swallows packets, is seen in nothing but
the time that it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import psycopg
from sqlalchemy import Engine, event

from modkernel.system.outages import tell_away, tell_back

CONNECT_SECONDS = 10
"""For which a connection is waited for, and for its first answer after it lay idle."""
TOLD_AFTER_SECONDS = 5.0
"""Without an answer, until whoever watches is told."""


class Connection(psycopg.Connection[Any]):
    """One whose statements end in an error where the server does not answer in time."""

    what = "The database"
    seconds: float = 0
    """For which whoever asks waits, in all."""
    patience: float = CONNECT_SECONDS
    """Seconds for which a statement may go unanswered."""

    def wait(self, gen: Generator[Any, Any, Any], *arguments: Any, **named: Any) -> Any:
        """See psycopg's; all that is sent to the server goes through here."""
        try:
            return super().wait(self._in_time(gen), *arguments, **named)
        except _SilentError:
            self.close()  # Whatever it answers later answers something else.
            raise

    def _in_time(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        began, told = time.monotonic(), False
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted  # Nothing is ready ten times a second.
                if ready:
                    began = time.monotonic()
                spent = time.monotonic() - began
                if spent > self.patience:
                    gen.close()
                    raise _SilentError(f"it has not answered for {spent:.0f} s")
                if spent > TOLD_AFTER_SECONDS:
                    told = True
                    tell_away(self.what, self.seconds)
                wanted = gen.send(ready)
        except StopIteration as done:
            if told:
                tell_back(self.what)
            return done.value


class _SilentError(psycopg.OperationalError):
    """The server has not answered in time."""


def expect_answers(engine: Engine, what: str, seconds: float) -> None:
    """Have an engine's connections give up where PostgreSQL does not answer.

    Args:
        engine: of PostgreSQL by psycopg.
        what: it is, as a person is told.
        seconds: for which a statement may go unanswered; a connection, and whether one that lay
            idle still works, for `CONNECT_SECONDS` only: whoever asks tries again.
    """

    @event.listens_for(engine, "do_connect")
    def connect(_: Any, __: Any, arguments: list[Any], named: dict[str, Any]) -> Connection:
        made = Connection.connect(*arguments, **({"connect_timeout": CONNECT_SECONDS} | named))
        made.what, made.seconds = what, seconds
        return made

    def patience_of(patience: float) -> Callable[..., None]:
        def be_patient(connection: Any, *_: Any) -> None:
            if connection is not None:
                connection.patience = patience

        return be_patient

    event.listen(engine, "checkout", patience_of(max(seconds, CONNECT_SECONDS)))
    event.listen(engine, "checkin", patience_of(CONNECT_SECONDS))
