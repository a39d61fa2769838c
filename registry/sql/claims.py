"""Claims: who may work on a key, by an expiring lease that only its owner renews.

A key is a recipe digest (who trains it) or a module id (who stores it). Taking a free key and
taking over an expired one are the same single statement, so of any number of processes exactly
one gets it.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from sqlalchemy import delete, update
from sqlalchemy.dialects import postgresql, sqlite

from modkernel.errors import StoreError
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import ClaimRow

INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""How a row is inserted unless it is there, by the database's dialect."""
POLL_SECONDS = 0.1
"""Between two tries to take a claim that another has."""


class _TakenError(StoreError):
    """The lease had expired and another owner took it."""


@dataclass(frozen=True)
class Claim:
    """A lease on a key. As a context manager it is released at the end.

    It ends by itself when it is not renewed for `lease_seconds`; then another may take it.
    """

    database: Database
    key: str
    owner: str
    token: str
    lease_seconds: int

    def renew(self) -> None:
        """Extend the lease to `lease_seconds` from now.

        Raises:
            StoreError: the lease had expired and another owner took it: stop working.
        """
        with self.database.writing() as session:
            renewed = session.execute(
                update(ClaimRow)
                .where(ClaimRow.key == self.key, ClaimRow.token == self.token)
                .values(expires_at=self.database.now + self.lease_seconds)
                .returning(ClaimRow.token)
            ).first()
        if renewed is None:
            raise _TakenError(
                f"The claim of {self.owner} on {self.key[:12]} had expired and is another's now: "
                "stop, the other continues. A larger MODKERNEL_LEASE_SECONDS avoids it."
            )

    def release(self) -> None:
        """Give the key up; nothing happens if it is another's already."""
        with self.database.writing() as session:
            session.execute(
                delete(ClaimRow).where(ClaimRow.key == self.key, ClaimRow.token == self.token)
            )

    @contextmanager
    def renewed(self, lost: threading.Event | None = None) -> Iterator[Self]:
        """Renewed by a thread until the block ends, then released.

        Args:
            lost: set if it cannot be renewed: what is done under it must stop.
        """
        ended = threading.Event()
        renewer = threading.Thread(target=self._renew_until, args=(ended, lost), daemon=True)
        renewer.start()
        try:
            yield self
        finally:
            ended.set()
            renewer.join()
            self.release()

    def _renew_until(self, ended: threading.Event, lost: threading.Event | None) -> None:
        renewed = time.monotonic()
        while not ended.wait(self.lease_seconds / 3):
            try:
                self.renew()
                renewed = time.monotonic()
            except StoreError as error:
                # While the lease still runs, a database that was away may be back in time.
                left = self.lease_seconds - (time.monotonic() - renewed)
                if not isinstance(error, _TakenError) and left > 0:
                    continue
                if lost is not None:
                    lost.set()
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def take(database: Database, key: str, owner: str, lease_seconds: int) -> Claim | None:
    """Claim a key that nobody holds, or whose lease has expired; else none."""
    token = secrets.token_hex(16)
    expires_at = database.now + lease_seconds
    insert = INSERT[database.engine.dialect.name](ClaimRow).values(
        key=key, owner=owner, token=token, expires_at=expires_at
    )
    statement = insert.on_conflict_do_update(
        index_elements=[ClaimRow.key],
        set_={"owner": owner, "token": token, "expires_at": expires_at},
        where=ClaimRow.expires_at < database.now,
    ).returning(ClaimRow.token)
    with database.writing() as session:
        taken = session.execute(statement).first()
    return None if taken is None else Claim(database, key, owner, token, lease_seconds)


def wait_for(database: Database, key: str, owner: str, lease_seconds: int) -> Claim:
    """Claim a key, waiting until its holder releases it or lets it expire."""
    while (claim := take(database, key, owner, lease_seconds)) is None:
        time.sleep(POLL_SECONDS)
    return claim
