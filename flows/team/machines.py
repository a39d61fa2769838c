"""What machines say of themselves: a Prefect variable for each, which people can read in its page.

A machine looks at what runs need and says what it lacks for them; the parent flows, and people,
read why nothing takes a run.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

import orjson
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.types._datetime import now
from prefect.variables import Variable
from pydantic import Field, ValidationError

from modkernel.flows.servers.work_pools import Pool
from modkernel.spec import Spec

PREFIX = "modkernel_machine_"
"""How the names of the variables begin."""
TAG = "modkernel"
HEARD_SECONDS = 20.0
"""How often a machine says that it is there."""
ABSENT = timedelta(seconds=90)
"""A machine that was silent for so long is away."""
GONE = timedelta(minutes=10)
"""A machine that is away for so long does not count as one that comes back, as after a boot."""
ALL = {"variables": {"tags": {"all_": [TAG]}}, "limit": 200}
FRESH_SECONDS = 4.0
FITS_SHOWN = 20
LACK_LENGTH = 240
LENGTH = 4800
"""A variable holds 5,000 characters."""
_asking = asyncio.Lock()
_answer: list[Any] = [-FRESH_SECONDS, []]
"""When the machines were asked for, and what was found."""


class Machine(Spec):
    """A machine that works for the team."""

    host: str
    version: str
    """Of modkernel."""
    pools: tuple[Pool, ...]
    devices: tuple[str, ...]
    """For people: each kind with its number."""
    fits: tuple[str, ...] = Field((), description="Keys of needs that it meets.")
    lacks: dict[str, str] = Field({}, description="What it lacks, by the key of the needs.")


class Heard(Spec):
    """A machine, and how long ago it was heard of."""

    machine: Machine
    silent: timedelta

    @property
    def is_here(self) -> bool:
        """Whether it is at work now."""
        return self.silent < ABSENT


async def publish(machine: Machine) -> None:
    """Say what this machine is, and what it lacks: the last of that, if there is much."""
    lacks = [(key, text[:LACK_LENGTH]) for key, text in machine.lacks.items()]
    fits = machine.fits[-FITS_SHOWN:]
    while True:
        shown = machine.changed(lacks=dict(lacks), fits=fits).model_dump(mode="json")
        if len(orjson.dumps(shown)) <= LENGTH or not lacks:
            break
        lacks = lacks[1:]
    await Variable.aset(variable_of(machine), shown, tags=[TAG], overwrite=True)


async def withdraw(client: PrefectClient, machine: Machine) -> None:
    """Say no more of a machine: it has stopped on purpose."""
    try:
        await client.delete_variable_by_name(variable_of(machine))
    except ObjectNotFound:
        return


async def machines() -> list[Heard]:
    """All machines that say something of themselves, by name; those long gone left out.

    Asked once for all workers of this process, and again after some seconds.
    """
    async with _asking:
        if time.monotonic() - _answer[0] > FRESH_SECONDS:
            async with get_client() as client:
                found = await client.request("POST", "/variables/filter", json=ALL)
            _answer[:] = time.monotonic(), _heard(found.json())
        return list(_answer[1])


def _heard(rows: Sequence[dict[str, Any]]) -> list[Heard]:
    heard: list[Heard] = []
    for row in rows:
        if not row["name"].startswith(PREFIX):
            continue
        try:
            machine = Machine.model_validate(row["value"])
        except ValidationError:
            continue  # Of another version, or a person's own.
        silent = now("UTC") - datetime.fromisoformat(row["updated"])
        if silent < GONE:
            heard.append(Heard(machine=machine, silent=max(silent, timedelta(0))))
    return sorted(heard, key=lambda one: one.machine.host)


def nobody_can(heard: Sequence[Heard], pool: Pool, key: str) -> str | None:
    """What each machine of a pool lacks, if all that are known lack something; else none.

    A machine that is away for a moment may come back, and one that has not looked yet may fit.

    Args:
        heard: the machines.
        pool: that the run waits in.
        key: of the run's needs.
    """
    serving = [one for one in heard if pool in one.machine.pools]
    if not serving or not all(one.is_here and key in one.machine.lacks for one in serving):
        return None
    return "; ".join(f"{one.machine.host} {one.machine.lacks[key]}" for one in serving)


def variable_of(machine: Machine) -> str:
    """Name of the variable in which a machine speaks: one for each process that works there."""
    about = (machine.host, *machine.pools, *machine.devices)
    mark = sha256("\n".join(about).encode()).hexdigest()[:6]
    return PREFIX + re.sub(r"[^a-z0-9]", "_", machine.host.lower()) + f"_{mark}"


def this_host() -> str:
    """Name of this machine."""
    return socket.gethostname()
