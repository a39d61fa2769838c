"""`jobs.run`, for fork servers that leave out the seconds of imports that only training needs."""

from __future__ import annotations

from modkernel.jobs import server
from tests.modkernel.helpers.jobs import run

__all__ = ["run"]

server.preload = lambda: None
