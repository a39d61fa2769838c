"""Prefect's SQLite database, whose transactions wait for one another.

Of two transactions that read and then write at once SQLite ends one without waiting, and Prefect
answers 503. Its Python client asks again, seconds later; its page shows an error to whoever resumes
a run, or saves a schedule, while another run goes on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Any

from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.server.utilities.database import get_dialect
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL


class InTurn(AioSqliteConfiguration):
    """Prefect's SQLite database, each transaction of which begins when it may write."""

    @asynccontextmanager
    async def begin_transaction(
        self, session: Any, with_for_update: bool = True
    ) -> AsyncGenerator[Any, None]:
        """Begin a transaction; it waits for its turn, for Prefect's 60 s at most."""
        async with super().begin_transaction(session, with_for_update=True) as begun:
            yield begun


def transactions_in_turn() -> AbstractContextManager[None]:
    """While it lasts, Prefect's server in this process has such a database, if it has SQLite."""
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url is None or get_dialect(url).name != "sqlite":
        return nullcontext()
    return temporary_database_config(InTurn(connection_url=url))
