"""`modkernel worker`: one worker a device, and one for flows, in one process of this machine."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.logging import get_logger

from modkernel.errors import ServiceError, SettingsError
from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.flows.servers.engine_server import EngineServer
from modkernel.flows.servers.supervisor import POLL_SECONDS, stop_signals
from modkernel.flows.servers.work_pools import FLOWS, GPU, Pool, missing_pools
from modkernel.flows.team.devices import DeviceFacts, devices, named
from modkernel.flows.team.dispatch import FLOW
from modkernel.flows.team.fit import Fit
from modkernel.flows.team.machines import (
    HEARD_SECONDS,
    Machine,
    publish,
    this_host,
    withdraw,
)
from modkernel.flows.team.worker import TeamWorker
from modkernel.registry import Registry, Settings

STOP_SECONDS = 60.0
"""How long runs in hand may take to write a checkpoint when the worker is stopped."""
LEASE_SECONDS = 180
"""Lease of claims, unless it is set: a machine without network for two minutes keeps its claims."""
ONE_DEVICE = {"MODKERNEL_DEVICES_PER_MODULE": "1"}
"""A worker has no other, whatever this machine's settings say of a flow that runs by itself."""
WITHOUT_DEVICE = {"CUDA_VISIBLE_DEVICES": "", "MODKERNEL_DEVICE": "cpu", **ONE_DEVICE}
"""A flow that waits holds no device; what it trains itself is small."""


Beside = Callable[[], AbstractAsyncContextManager[object]]


def serve_pools(
    engines: EngineServer,
    settings: Settings,
    pools: Sequence[Pool],
    say: Callable[[str], None],
    beside: Beside,
) -> None:
    """Serve pools of the Prefect server in use on this machine, until SIGINT, SIGTERM or SIGHUP.

    Runs in hand are then told to stop: they write a checkpoint, and other machines go on.

    Args:
        engines: forks a process for each run.
        settings: of this machine.
        pools: to serve.
        say: is told each line.
        beside: is entered while it serves.

    Raises:
        SettingsError: the stores are this machine's alone, or a device is asked for that is not
            there.
        ServiceError: the server has no team, or one of another version.
        StoreError: one of the stores does not answer.
    """
    os.environ.setdefault("MODKERNEL_LEASE_SECONDS", str(LEASE_SECONDS))
    check_stores(settings)
    Registry.open(settings).close()
    found = devices(settings) if GPU in pools else ()
    here = Machine(
        host=this_host(),
        version=OUR_VERSION,
        pools=tuple(pools),
        devices=named(found),
    )
    with stop_signals() as stopped:
        asyncio.run(_serve(engines, settings, here, found, say, stopped, beside))


def check_stores(settings: Settings) -> None:
    """Check that the stores are servers, if the Prefect server is on another machine.

    Raises:
        SettingsError: one is a file of this machine; the message names its setting.
    """
    if _is_local(os.environ.get("PREFECT_API_URL", "")):
        return
    for name, place in (
        ("MODKERNEL_DATABASE_URL", settings.registry_url),
        ("MODKERNEL_MLFLOW_URI", settings.mlflow_uri),
    ):
        if not place.startswith(("http", "postgresql")):
            raise SettingsError(
                f"{name} names something of this machine alone, and the Prefect server is "
                "another: set it to the team's server, so that every machine finds what this "
                "one stores."
            )


def _is_local(url: str) -> bool:
    return httpx.URL(url).host in ("127.0.0.1", "localhost", "::1")


async def _serve(
    engines: EngineServer,
    settings: Settings,
    here: Machine,
    found: Sequence[DeviceFacts],
    say: Callable[[str], None],
    stopped: Callable[[], bool],
    beside: Beside,
) -> None:
    await _check_team()
    async with get_client() as client, beside():
        fit = Fit(settings, found)
        workers = team_workers(here, found, fit)
        say(f"{here.host}: modkernel {here.version}, data in {settings.data_root}.")
        for worker in workers:
            say(f"Worker '{worker.name}'.")
        heard = asyncio.create_task(_speak(here, fit))
        tasks = list[asyncio.Task[None]]()
        try:
            # A run that is taken before would load all of it for itself, slower than it waits.
            while not (engines.is_ready or stopped()):
                engines.keep_alive()
                await asyncio.sleep(POLL_SECONDS)
            tasks += [asyncio.create_task(worker.start(printer=_quiet)) for worker in workers]
            while not stopped():
                engines.keep_alive()
                for task in tasks:
                    if task.done():
                        task.result()
                        raise ServiceError("A worker ended by itself: see its log above.")
                await asyncio.sleep(POLL_SECONDS)
            say("Stopping: runs in hand write a checkpoint ...")
        finally:
            heard.cancel()
            with suppress(httpx.HTTPError, PrefectHTTPStatusError):
                await withdraw(client, here)
            await _end(workers, tasks)


async def _check_team() -> None:
    async with get_client() as client:
        missing = await missing_pools(client)
        if missing:
            raise ServiceError(
                f"The Prefect server has no work pool '{missing[0]}': run 'modkernel team init' "
                "once, with the same PREFECT_API_URL."
            )
        try:
            kept = await client.read_deployment_by_name(f"{FLOW}/{FLOW}")
        except ObjectNotFound:
            raise ServiceError(
                f"The Prefect server has no deployment '{FLOW}/{FLOW}': run 'modkernel team init'."
            ) from None
    if kept.version != OUR_VERSION:
        raise ServiceError(
            f"The team has modkernel {kept.version}, and this machine {OUR_VERSION}: install the "
            "team's here; or, once all machines have this one, run 'modkernel team init' with it."
        )


def team_workers(here: Machine, found: Sequence[DeviceFacts], fit: Fit) -> list[TeamWorker]:
    """The workers of a machine: one for flows, and one for each device."""
    made: list[TeamWorker] = []
    if FLOWS in here.pools:
        name = f"{here.host} flows, modkernel {here.version}"
        made.append(TeamWorker(FLOWS, name, fit, None, WITHOUT_DEVICE))
    for device in found:
        name = f"{here.host} {device}, modkernel {here.version}".replace("/", "-")
        made.append(TeamWorker(GPU, name, fit, device, _environment(device)))
    return made


def _environment(device: DeviceFacts) -> dict[str, str]:
    if device.kind == "cpu":
        return {"MODKERNEL_DEVICE": "cpu", **ONE_DEVICE}
    return {"CUDA_VISIBLE_DEVICES": device.index, "MODKERNEL_DEVICE": "cuda", **ONE_DEVICE}


async def _speak(here: Machine, fit: Fit) -> None:
    """Say what this machine is, at once where that has changed, else now and then."""
    said, at = None, -HEARD_SECONDS
    while True:
        now = here.changed(fits=fit.fits, lacks=fit.lacks)
        if now != said or time.monotonic() - at >= HEARD_SECONDS:
            try:
                await publish(now)
                said, at = now, time.monotonic()
            except Exception as error:  # Whatever it is, the server may take it later.
                told = str(error) or type(error).__name__
                get_logger(__name__).warning("The server was not told of this machine: %s", told)
                await asyncio.sleep(HEARD_SECONDS / 4)
        await asyncio.sleep(1)


async def _end(workers: Sequence[TeamWorker], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Tell the runs in hand to stop, wait for them, and end the workers."""
    for worker in workers:
        worker.takes_runs = False
    deadline = time.monotonic() + STOP_SECONDS
    told: set[int] = set()
    while any(worker.in_hand for worker in workers) and time.monotonic() < deadline:
        left = {pid for worker in workers for pid in worker.running}
        for pid in left - told:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        told |= left
        await asyncio.sleep(POLL_SECONDS)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _quiet(*_: object) -> None:
    """In place of what Prefect prints of its workers."""
