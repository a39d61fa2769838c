"""Claims: who may work on a key, by an expiring lease that only its owner renews.

A key is a recipe digest (who trains it) or a module id (who stores it). Taking a free key and
taking over a dead one's are a single statement each, so of any number of processes exactly one
gets it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self

from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from modkernel.errors import StoreError
from modkernel.registry.sql.engine import Database
from modkernel.registry.sql.tables import ClaimRow

LOG = logging.getLogger(__name__)
INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""How a row is inserted unless it is there, by the database's dialect."""
POLL_SECONDS = 0.1
"""Between two tries to take a claim that another has."""
TOKEN_LENGTH = 32
"""What the column holds."""


class LostClaimError(StoreError):
    """The lease had expired, and another owner took the claim over."""


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
            LostClaimError: the lease had expired and another owner took it over: stop working.
        """
        with self.database.writing() as session:
            renewed = session.execute(
                update(ClaimRow)
                .where(ClaimRow.key == self.key, ClaimRow.token == self.token)
                .values(expires_at=self.database.now + self.lease_seconds)
                .returning(ClaimRow.token)
            ).first()
        if renewed is None:
            raise self._lost()

    def check(self, session: Session) -> None:
        """Hold the claim until a transaction ends: nobody takes it over before.

        Raises:
            LostClaimError: somebody has already.
        """
        mine = select(ClaimRow.key).where(ClaimRow.key == self.key, ClaimRow.token == self.token)
        if session.scalars(mine.with_for_update()).first() is None:
            raise self._lost()

    def is_held(self) -> bool:
        """Whether nobody took it over, be the lease over or not."""
        with self.database.writing() as session:
            try:
                self.check(session)
            except LostClaimError:
                return False
        return True

    def _lost(self) -> LostClaimError:
        return LostClaimError(
            f"The claim of {self.owner} on {self.key[:12]} had expired and another took it over, "
            "who does the work now. A larger MODKERNEL_LEASE_SECONDS avoids it."
        )

    def release(self) -> None:
        """Give the key up; nothing happens if it is another's already."""
        with self.database.writing() as session:
            session.execute(
                delete(ClaimRow).where(ClaimRow.key == self.key, ClaimRow.token == self.token)
            )

    @contextmanager
    def unless_lost(self) -> Iterator[None]:
        """End the block quietly where it fails and the claim is another's by then.

        What it failed of may be what the other did, who does the work now.
        """
        try:
            yield
        except Exception as error:
            if self.is_held():
                raise
            LOG.warning("%s It was left off here (%s).", self._lost(), type(error).__name__)

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
                if not isinstance(error, LostClaimError) and left > 0:
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


@dataclass(frozen=True)
class Holder:
    """Who holds a claim, and for how long if it is not renewed."""

    owner: str
    """As it signed: HOST:PROCESS."""
    seconds: float
    """That its lease lasts at most from now, unless it is renewed."""

    def __str__(self) -> str:
        host, _, process = self.owner.rpartition(":")
        until = datetime.now() + timedelta(seconds=self.seconds)
        return (
            f"process {process} on {host}, until {until:%H:%M:%S} at the latest unless it says "
            "that it is still at work"
        )


class Contender:
    """Whoever wants a key; `attempt` takes it once it is free or its holder is dead.

    A clock that is set, by an hour or by a second, may make a live claim look expired, and a dead
    one look alive. So a claim is never taken over on sight: it must look expired and not be
    renewed while this process counts out two turns of its renewing; or, whatever the clock says,
    not be renewed for a whole lease.
    """

    def __init__(self, database: Database, key: str, owner: str, lease_seconds: int) -> None:
        self._database, self._key, self._owner = database, key, owner
        self._lease_seconds = lease_seconds
        self._seen: _Seen | None = None
        self._since = 0.0
        self.holder: Holder | None = None
        """Who had the key at the last attempt."""
        self.is_live = False
        """Whether the holder's lease, by the database's clock, ran at the last attempt."""

    def attempt(self) -> Claim | None:
        """The claim, or none while another holds it or is not known to be dead."""
        found = self._insert()
        if isinstance(found, Claim):
            return found
        now = time.monotonic()
        if found != self._seen:
            self._seen, self._since = found, now
        watched = now - self._since
        self.is_live = 0 <= found.seconds <= found.lease_seconds
        left = min(max(found.seconds, 0), found.lease_seconds - watched)
        self.holder = Holder(found.owner, max(left, 0))
        needed = found.lease_seconds * (1 if found.seconds >= 0 else 2 / 3)
        return self._take_over(found) if watched > needed else None

    def _insert(self) -> Claim | _Seen:
        """The claim if nobody has the key, else what is known of who has."""
        values = self._values()
        insert = INSERT[self._database.engine.dialect.name](ClaimRow).values(
            key=self._key, **values
        )
        statement = insert.on_conflict_do_nothing(index_elements=[ClaimRow.key])
        look = select(ClaimRow, self._database.now.label("now")).where(ClaimRow.key == self._key)
        while True:
            with self._database.reading() as session:
                found = session.execute(look).first()
                if found is not None:
                    return _Seen.of(*found)
            with self._database.writing() as session:
                if session.execute(statement.returning(ClaimRow.token)).first() is not None:
                    return self._claim(values["token"])

    def _take_over(self, seen: _Seen) -> Claim | None:
        values = self._values()
        with self._database.writing() as session:
            taken = session.execute(
                update(ClaimRow)
                .where(
                    ClaimRow.key == self._key,
                    ClaimRow.token == seen.token,
                    ClaimRow.expires_at == seen.expires_at,
                )
                .values(**values)
                .returning(ClaimRow.token)
            ).first()
        return None if taken is None else self._claim(values["token"])

    def _values(self) -> dict[str, Any]:
        return {
            "owner": self._owner,
            "token": _token(self._lease_seconds),
            "expires_at": self._database.now + self._lease_seconds,
        }

    def _claim(self, token: str) -> Claim:
        return Claim(self._database, self._key, self._owner, token, self._lease_seconds)


@dataclass(frozen=True)
class _Seen:
    """A row as it was found; equal to another unless it was renewed or taken in between."""

    owner: str
    token: str
    expires_at: float
    seconds: float = field(compare=False)
    """Left of the lease by the database's clock; negative if it has expired."""

    @classmethod
    def of(cls, row: ClaimRow, now: float) -> Self:
        return cls(row.owner, row.token, row.expires_at, row.expires_at - float(now))

    @property
    def lease_seconds(self) -> int:
        return int(self.token.partition(".")[0])


def _token(lease_seconds: int) -> str:
    """What no other claim has, and how long its lease is: others wait by the holder's measure."""
    lease = f"{lease_seconds}."
    return lease + secrets.token_hex(16)[: TOKEN_LENGTH - len(lease)]


def holder_of(database: Database, key: str) -> Holder | None:
    """Who has the claim on a key at this moment; it may have died since it was renewed."""
    query = select(ClaimRow, database.now.label("now")).where(
        ClaimRow.key == key, ClaimRow.expires_at >= database.now
    )
    with database.reading() as session:
        found = session.execute(query).first()
        if found is None:
            return None
        seen = _Seen.of(*found)
        return Holder(seen.owner, max(seen.seconds, 0))


def is_held(database: Database, key: str) -> bool:
    """Whether somebody has the claim on a key at this moment."""
    return holder_of(database, key) is not None


def take(database: Database, key: str, owner: str, lease_seconds: int) -> Claim | None:
    """Claim a key that nobody holds, or whose holder is dead; else none.

    Where a lease has expired it takes two thirds of it to be sure; see `Contender`.
    """
    contender = Contender(database, key, owner, lease_seconds)
    while (claim := contender.attempt()) is None and not contender.is_live:
        time.sleep(POLL_SECONDS)
    return claim


def wait_for(database: Database, key: str, owner: str, lease_seconds: int) -> Claim:
    """Claim a key, waiting until its holder releases it or lets it expire."""
    contender = Contender(database, key, owner, lease_seconds)
    while (claim := contender.attempt()) is None:
        time.sleep(POLL_SECONDS)
    return claim
