"""Keeps the choice lists of the served forms as the registry is."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable

from modkernel.flows.deployments.forms.schema import form_schema
from modkernel.flows.runtime.form_flow import FormFlow
from modkernel.flows.runtime.shared import open_registry
from modkernel.flows.servers.followers import tell_moves
from modkernel.flows.servers.registration import KeptDeployment
from modkernel.registry import StoredNames

LOOK_SECONDS = 3.0
"""How often the registry is looked at."""
ALIAS_SECONDS = 15.0
"""How often MLflow is asked for aliases that people have set in its page."""
MOST_ALIAS_SECONDS = 45.0
"""How often at least: a move is to be seen within a minute."""
REST = 4
"""Times what the answer took, for which a server that answers slowly is left alone at least."""
FIRST_SECONDS = 20.0
"""For which the first look is waited for; after that the forms do without at first."""


class StoredNow:
    """What the registry has, looked at again and again in a thread.

    A database or MLflow that is away is waited for there, while everything else goes on.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.names: StoredNames | None = None
        """None until the registry has answered once."""
        self.offered: StoredNames | None = None
        """What the served forms offer; None until they are known to offer what there is."""
        self._say = say
        self._answered, self._stopped = threading.Event(), threading.Event()
        # Whoever stops does not wait for it.
        threading.Thread(target=self._look, name="stored-names", daemon=True).start()

    def first(self) -> StoredNames | None:
        """What it has, unless it does not answer in time."""
        self._answered.wait(FIRST_SECONDS)
        return self.names

    def stop(self) -> None:
        """Look no more; a look that is going on ends by itself."""
        self._stopped.set()

    def _look(self) -> None:
        next_aliases, told = 0.0, False
        while not self._stopped.is_set():
            try:
                registry = open_registry()
                self.names = registry.names()
                self._answered.set()
                if (began := time.monotonic()) >= next_aliases:
                    next_aliases = began + ALIAS_SECONDS  # If it fails.
                    registry.promotions.sync()
                    now = time.monotonic()
                    next_aliases = now + rest_of(now - began)
                if self.offered is not None:
                    for moved in tell_moves(registry, self.offered.modules):
                        target = f"version {moved.version}" if moved.version else "nothing"
                        self._say(f"{moved.name}@{moved.alias} means {target} now.")
                told = False
            except Exception as error:  # Whatever it is, the registry may be back later.
                if not told:
                    self._say(f"The choices in the forms stay as they are: {error}")
                told = True
            self._stopped.wait(LOOK_SECONDS)


def rest_of(seconds: float) -> float:
    """Seconds for which MLflow is not asked for aliases after an answer that took so long."""
    return min(max(ALIAS_SECONDS - seconds, REST * seconds), MOST_ALIAS_SECONDS)


def offer(deployments: Iterable[KeptDeployment], names: StoredNames | None) -> None:
    """Give the forms of deployments the choices that there are."""
    for made in deployments:
        if isinstance(made.run, FormFlow) and made.run.form is not None:
            made.show(form_schema(made.run.form, names))


async def follow(
    deployments: Iterable[KeptDeployment],
    stored: StoredNow,
    known: StoredNames | None,
    say: Callable[[str], None],
) -> None:
    """Bring the forms up to date whenever something is stored, deleted or promoted.

    Args:
        deployments: that are served.
        stored: what there is.
        known: the names that their forms offer already.
        say: is told once when the server does not answer.
    """
    told, stored.offered = False, known
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        names = stored.names
        if names == known:
            continue
        offer(deployments, names)
        try:
            for made in deployments:
                await made.refresh()
            stored.offered = known = names
            told = False
        except Exception as error:  # Whatever the client raises of a server that is away.
            if not told:
                say(f"Cannot bring the forms up to date, and goes on trying: {error}")
            told = True
