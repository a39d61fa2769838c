"""What runs need and machines have: without any server."""

from __future__ import annotations

import asyncio
import subprocess
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import orjson
import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelled, Completed, Crashed, Failed
from prefect.variables import Variable
from prefect.workers.process import ProcessWorker

from modkernel.data import describe_dataset
from modkernel.errors import (
    ChildError,
    ModkernelError,
    NonFiniteError,
    SettingsError,
    SpecError,
    StoppedError,
)
from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.flows.tasks.child import make_job
from modkernel.flows.team.devices import GIB, DeviceFacts, devices, named
from modkernel.flows.team.dispatch import outcome
from modkernel.flows.team.fit import Fit, device_lacks
from modkernel.flows.team.machines import Heard, Machine, nobody_can, publish
from modkernel.flows.team.needs import Needs, paths_in, stated
from modkernel.flows.team.serve import check_stores
from modkernel.flows.team.worker import TeamWorker, needs_of
from modkernel.registry import Settings
from modkernel.spec import DatasetSpec

CPU = DeviceFacts(kind="cpu", index="0", name="CPU", memory_bytes=16 * GIB)
SMALL = DeviceFacts(kind="cuda", index="0", name="T4", memory_bytes=16 * GIB)
LARGE = DeviceFacts(kind="cuda", index="1", name="H100", memory_bytes=80 * GIB)


def machine(host: str, **fields: object) -> Machine:
    given = {"version": OUR_VERSION, "pools": ("gpu",), "devices": (), **fields}
    return Machine.model_validate({"host": host, **given})


@pytest.mark.parametrize(
    ("needs", "device", "lack"),
    [
        (Needs(), CPU, None),
        (Needs(device="cuda"), SMALL, None),
        (Needs(device="cuda"), CPU, "has no GPU"),
        (Needs(device="cpu"), SMALL, "computes on GPUs alone"),
        (Needs(memory_bytes=24 * GIB), SMALL, "16 GiB of memory on cuda:0, and 24 GiB"),
        (Needs(memory_bytes=24 * GIB), LARGE, None),
        (Needs(version="99"), LARGE, f"has modkernel {OUR_VERSION}, and 99 is needed"),
    ],
)
def test_a_device_says_what_it_lacks(needs: Needs, device: DeviceFacts, lack: str | None) -> None:
    found = device_lacks(needs, device)
    assert (found is None) if lack is None else (lack in (found or ""))


def test_tags_state_needs() -> None:
    assert stated(["needs:cuda", "needs:24GB", "mine"]) == {
        "device": "cuda",
        "memory_bytes": 24 * 10**9,
    }
    with pytest.raises(SpecError, match=r"'needs:much' states no need: write needs:cuda"):
        stated(["needs:much"])


def test_a_flow_needs_the_files_that_its_form_or_spec_names() -> None:
    form = {"dataset": "image_folder", "path": "/data/birds", "labels": "", "seed": 3}
    spec = {"spec": {"dataset": {"name": "arrays", "path": "cells"}, "pairs": "/data/p.csv"}}
    assert list(paths_in(form)) == ["/data/birds"]
    assert list(paths_in(spec)) == ["cells", "/data/p.csv"]
    run = FlowRun(id=uuid4(), flow_id=uuid4(), parameters=form, deployment_version="7")
    assert needs_of(run) == Needs(version="7", files=("/data/birds",))


def test_needs_of_another_version_are_refused_and_not_misread() -> None:
    given = {"needs": {"version": "99", "robots": 3}}
    run = FlowRun(id=uuid4(), flow_id=uuid4(), parameters=given)
    assert "99 is needed" in str(device_lacks(needs_of(run), CPU))


def test_a_machine_looks_for_the_data_and_compares_them(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.ensure_home()
    digits = DatasetSpec(name="digits")
    known = describe_dataset(digits, settings.places).fingerprint
    here = Needs(dataset=digits, fingerprint=known)
    other = Needs(dataset=digits, fingerprint="0" * 64)
    nowhere = Needs(dataset=DatasetSpec(name="image_folder", path=str(tmp_path / "none")))

    async def judged() -> list[str | None]:
        fit = Fit(settings, [CPU, SMALL])
        asked = (here, other, nowhere, here.changed(memory_bytes=99 * GIB))
        for needs in asked:
            while needs.key not in (*fit.fits, *fit.lacks):  # The first look takes a while.
                await fit.judge(needs, True)
        return [await fit.judge(needs, True) for needs in asked]

    fits, differs, missing, small = asyncio.run(judged())
    assert fits is None
    assert "has other examples in data set 'digits'" in str(differs)
    assert str(tmp_path / "none") in str(missing)
    assert "16 GiB of memory" in str(small)


def test_it_is_said_that_nobody_can_only_once_all_who_could_have_looked() -> None:
    lacking = {"k": "has no GPU"}
    now, away = timedelta(0), timedelta(minutes=3)

    def heard(one: Machine, silent: timedelta = now) -> Heard:
        return Heard(machine=one, silent=silent)

    a = heard(machine("a", lacks=lacking))
    assert nobody_can([a, heard(machine("b", lacks=lacking))], "gpu", "k") == (
        "a has no GPU; b has no GPU"
    )
    assert nobody_can([a, heard(machine("b"))], "gpu", "k") is None  # It has not looked yet.
    assert nobody_can([a, heard(machine("b", lacks=lacking), away)], "gpu", "k") is None
    assert nobody_can([a, heard(machine("b", pools=("flows",)))], "gpu", "k") == "a has no GPU"
    assert nobody_can([], "gpu", "k") is None


@pytest.mark.parametrize(
    ("message", "kind", "told"),
    [
        (
            "Flow run encountered an exception: NonFiniteError: On one: loss is nan.",
            NonFiniteError,
            "On one: loss is nan.",
        ),
        ("no such thing", ChildError, "no such thing"),
        ("SystemExit: 3", ChildError, "SystemExit: 3"),
    ],
)
def test_what_ended_a_run_elsewhere_is_raised_here(
    message: str, kind: type[ModkernelError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        outcome(Failed(message=message), "net.hidden-1")


def test_other_ends_of_a_run() -> None:
    outcome(Completed(), "net")
    with pytest.raises(StoppedError, match="was cancelled in Prefect"):
        outcome(Cancelled(), "net")
    with pytest.raises(ChildError, match="was not started again") as raised:
        outcome(Crashed(message="gone"), "net")
    assert raised.value.died


def test_stores_of_one_machine_are_refused_where_the_server_is_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:4200/api")
    check_stores(Settings(home=tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.team.example/api")
    with pytest.raises(SettingsError, match="MODKERNEL_DATABASE_URL names something"):
        check_stores(Settings(home=tmp_path))


def test_a_path_that_cannot_be_looked_at_is_lacking(tmp_path: Path) -> None:
    fit = Fit(Settings(home=tmp_path), [CPU])
    needs = Needs(files=("x" * 300,))

    async def judged() -> None:
        while not fit.lacks:
            await fit.judge(needs, True)

    asyncio.run(judged())
    assert "has no xxx" in fit.lacks[needs.key]


def test_a_flow_of_somebody_elses_may_have_a_parameter_of_that_name() -> None:
    run = FlowRun(id=uuid4(), flow_id=uuid4(), parameters={"needs": "rest"})
    assert needs_of(run) == Needs()


def test_what_a_machine_says_fits_into_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[dict[str, Any]] = []

    async def keep(name: str, value: dict[str, Any], **_: object) -> None:
        said.append(value)

    monkeypatch.setattr(Variable, "aset", keep)
    lacks = {f"{number:012d}": f"lacks '{'ü' * 400}'" for number in range(60)}
    asyncio.run(publish(machine("a", lacks=lacks, fits=tuple(lacks))))
    (value,) = said
    assert len(orjson.dumps(value)) < 5000
    assert len(value["lacks"]) > 5
    assert list(value["lacks"])[-1] == list(lacks)[-1]
    assert value["fits"][-1] == list(lacks)[-1]


def test_a_place_on_the_cpu_has_the_memory_and_threads_of_the_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = subprocess.CompletedProcess((), 0, "[]", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr("modkernel.flows.team.devices.all_memory", lambda: 16 * GIB)
    monkeypatch.setattr("modkernel.flows.tasks.child.usable_cores", lambda: 6)
    settings = Settings(home=tmp_path, device="cpu", cpu_slots=2)
    assert [device.memory_bytes for device in devices(settings)] == [8 * GIB] * 2
    job: Any = make_job(cast(Any, dict), settings, "digest")
    assert job["threads"] == 3


def test_the_next_run_is_looked_for_as_soon_as_one_has_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: list[str] = []

    async def work(*_: object) -> None:
        happened.append("ended")
        raise OSError("However it ends.")

    async def look(_: object) -> None:
        happened.append("looked")

    async def one_run() -> None:
        worker = TeamWorker("gpu", "here", Fit(Settings(home=tmp_path), []), CPU, {})
        with pytest.raises(OSError, match="However"):
            await worker.run(cast(FlowRun, None), cast(Any, SimpleNamespace(env={})))
        await asyncio.sleep(0)

    monkeypatch.setattr(ProcessWorker, "run", work)
    monkeypatch.setattr(TeamWorker, "get_and_submit_flow_runs", look)
    asyncio.run(one_run())
    assert happened == ["ended", "looked"]


def test_devices_of_a_kind_are_told_together() -> None:
    assert named([LARGE] * 8 + [SMALL]) == ("8 × cuda H100 80 GiB", "1 × cuda T4 16 GiB")
