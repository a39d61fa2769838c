"""A child and its helpers as real processes: results, kills, stops, and the slots they hold."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from modkernel.data import DataPlaces, describe_dataset
from modkernel.errors import ChildError, SettingsError, StoppedError
from modkernel.jobs import helpers
from modkernel.jobs.client import ForkServer
from modkernel.jobs.job import HiddenJob
from modkernel.jobs.slots import check_enough, device_slot, device_slots
from modkernel.plan import facts, plan_network
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    Recipe,
)
from modkernel.training import TrainReport
from modkernel.training.checkpoint import position_of
from tests.modkernel.helpers import jobs
from tests.modkernel.helpers.slow_disk import SLOW
from tests.modkernel.test_child import alive, events, until


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer("tests.modkernel.helpers.slow_disk:run")
    server.start()
    yield server
    server.close()


def make_job(
    tmp_path: Path, name: str, devices: int = 2, epochs: int = 3, **fields: Any
) -> HiddenJob:
    """Train a module on the digits; the CPU has three slots."""
    places = DataPlaces(root=tmp_path / "data", cache=tmp_path / "cache", download=False)
    recipe = Recipe(epochs=epochs, precision="float32")
    hidden = HiddenSpec(kernel=KernelSpec(name="relu"), recipe=recipe)
    spec = NetworkSpec(
        name="digits", backbone=BackboneSpec(name="mlp", width=16), hidden=(hidden,), output=None
    )
    info = describe_dataset(spec.dataset, places)
    (plan,) = plan_network(spec, info)
    module = plan.spec(info.preprocessing.id, info.preprocessing, facts(info), 0)
    return HiddenJob(
        module=module,
        dataset=DatasetSpec(),
        data_root=str(places.root),
        cache=str(places.cache),
        device="cpu",
        work=str(tmp_path / name),
        slots=str(tmp_path / "slots"),
        devices=devices,
        cpu_slots=3,
    )


def helper_of(child: int) -> int:
    """The one process that a child, or its server, has forked."""
    (helper,) = Path(f"/proc/{child}/task/{child}/children").read_text().split()
    return int(helper)


def report(job: HiddenJob) -> TrainReport:
    return TrainReport.model_validate_json((job.result / "report.json").read_bytes())


def test_two_devices_leave_what_one_leaves(server: ForkServer, tmp_path: Path) -> None:
    one, two = (make_job(tmp_path, f"of-{count}", count) for count in (1, 2))
    server.run(one)
    server.run(two)
    first, second = (load_file(job.result / "weights.safetensors") for job in (one, two))
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-5
    assert [report(job).devices for job in (one, two)] == [1, 2]
    assert [event["epoch"] for event in events(Path(two.work))] == [1, 2, 3], "one of them reports"
    assert (two.result / "moments.safetensors").exists()
    assert not (Path(two.work) / "meeting").exists()


def test_the_server_is_fit_to_fork(server: ForkServer, tmp_path: Path) -> None:
    server.run(jobs.make_job(tmp_path / "job", "describe"))
    (line,) = events(tmp_path / "job")
    status = Path(f"/proc/{line['parent']}/status").read_text()
    assert "\nThreads:\t1\n" in status
    assert "torch._dynamo" in line["loaded"], "imports are shared"


@pytest.mark.parametrize("killed", ["helper", "child"])
def test_killing_one_process_ends_the_other_and_the_next_job_resumes(
    server: ForkServer, tmp_path: Path, killed: str
) -> None:
    job = make_job(tmp_path, "job", epochs=2000)
    work, caught = Path(job.work), []

    def run() -> None:
        with pytest.raises(ChildError) as error:
            server.run(job)
        caught.append(error.value)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: events(work))
    child = events(work, "started")[0]["pid"]
    helper = helper_of(child)
    os.kill(helper if killed == "helper" else child, signal.SIGKILL)
    thread.join(20)
    assert caught
    assert caught[0].died, "a flow tries again"
    assert "killed by SIGKILL" in str(caught[0])
    assert ("on device 2 was" in str(caught[0])) == (killed == "helper")
    until(lambda: not alive(child) and not alive(helper), 10)
    assert not job.result.exists()
    end = time.monotonic() + 10
    with device_slots(
        tmp_path / "slots", "cpu", 3, 3, lambda: time.monotonic() > end, lambda: None
    ) as free:
        assert len(free) == 3
    reached = events(work)[-1]["epoch"]
    stop = threading.Event()
    with pytest.raises(StoppedError):
        server.run(job, lambda event: stop.set() if event["event"] == "epoch" else None, stop)
    assert events(work)[-1]["epoch"] > reached
    assert [event["epoch"] for event in events(work)] == list(
        range(1, events(work)[-1]["epoch"] + 1)
    ), "no epoch is done twice"


@pytest.mark.parametrize("asked", ["helper", "child"])
def test_all_processes_stop_where_one_is_asked_to(
    server: ForkServer, tmp_path: Path, asked: str
) -> None:
    job = make_job(tmp_path, "job", epochs=2000)
    work, caught = Path(job.work), []

    def run() -> None:
        with pytest.raises(StoppedError, match=r"Interrupted at epoch \d+ of 2000") as error:
            server.run(job)
        caught.append(error.value)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: events(work))
    child = events(work, "started")[0]["pid"]
    helper = helper_of(child)
    os.kill(helper if asked == "helper" else child, signal.SIGTERM)
    thread.join(20)
    assert caught
    assert (work / "checkpoint" / "checkpoint.safetensors").exists()
    assert not alive(helper)
    assert json.loads((work / "error.json").read_bytes())["type"] == "StoppedError"


def test_a_slow_disk_has_the_last_checkpoint_all_the_same(
    server: ForkServer, tmp_path: Path
) -> None:
    """The helper has stopped long before the child, which writes for both."""
    job = make_job(tmp_path, SLOW, epochs=2000)
    stop = threading.Event()
    with pytest.raises(StoppedError):
        server.run(job, lambda event: stop.set() if event["event"] == "epoch" else None, stop)
    folder = Path(job.work) / "checkpoint"
    file = folder / "checkpoint.safetensors"
    assert list(folder.iterdir()) == [file]
    reached = position_of(file)
    written = file.stat().st_mtime
    assert reached is not None
    assert reached.epoch == events(Path(job.work))[-1]["epoch"]
    assert written - (Path(job.work) / "progress.jsonl").stat().st_mtime > 1, "after the last epoch"


def test_a_helper_that_is_killed_while_it_waits_for_a_device_is_told(
    server: ForkServer, tmp_path: Path
) -> None:
    job = make_job(tmp_path, "job")
    work, caught = Path(job.work), []

    def run() -> None:
        with pytest.raises(ChildError, match=r"on device 2 was killed by SIGKILL") as error:
            server.run(job)
        caught.append(error.value)

    thread = threading.Thread(target=run)
    with device_slots(tmp_path / "slots", "cpu", 3, 2, lambda: False, lambda: None):
        thread.start()
        until(lambda: events(work, "waiting"))
        helper = helper_of(helper_of(server._running()._process.pid))
        os.kill(helper, signal.SIGKILL)
        until(lambda: not alive(helper))
    thread.join(20)
    assert caught
    assert caught[0].died, "a flow tries again"


@pytest.mark.parametrize("said", [b"", b'{"type": "NonFiniteErr', b"do"])
def test_a_helper_that_is_cut_short_has_died(tmp_path: Path, said: bytes) -> None:
    """It is not waited for, though it has not ended yet."""
    ours, theirs = socket.socketpair()
    pid = os.posix_spawn("/bin/sleep", ["sleep", "60"], {})
    helper = helpers.Helper(1, pid, ours)
    follower = threading.Thread(target=helpers._follow, args=(helper, tmp_path))
    follower.start()
    theirs.sendall(said)
    theirs.close()
    assert helper.failed.wait(20)
    helper.dismiss()
    follower.join(20)
    ours.close()
    assert isinstance(helper.error, ChildError)
    assert helper.error.died


def test_jobs_of_two_devices_on_three_slots_finish(server: ForkServer, tmp_path: Path) -> None:
    """Three at once, and one of one device: two that hold one slot each would wait for ever."""
    asked = [make_job(tmp_path, str(number), 2, epochs=1) for number in range(3)]
    asked.append(make_job(tmp_path, "single", 1, epochs=1))
    threads = [threading.Thread(target=server.run, args=(job,)) for job in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(job.result.exists() for job in asked)


def test_who_wants_several_slots_gets_them_though_others_come_and_go(tmp_path: Path) -> None:
    """It keeps the one slot that is free, and takes the next one before a newcomer does."""

    waits: list[int] = []
    taken: list[tuple[Any, ...]] = []
    with device_slot(tmp_path, "cpu", 2, lambda: False, lambda: None):
        thread = threading.Thread(
            target=lambda: taken.append(_take(tmp_path, 2, lambda: waits.append(1)))
        )
        thread.start()
        until(lambda: waits)
        with (
            pytest.raises(StoppedError),
            device_slot(tmp_path, "cpu", 2, lambda: True, lambda: None),
        ):
            pass
    thread.join(10)
    assert taken == [("cpu", "cpu")]


def _take(folder: Path, count: int, waiting: Any) -> tuple[str, ...]:
    with device_slots(folder, "cpu", 2, count, lambda: False, waiting) as slots:
        return tuple(slot.device for slot in slots)


def test_more_devices_than_there_are_is_refused(server: ForkServer, tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"on 4 devices, .* 3 may compute here: set MODKERNEL_C"
    ):
        server.run(make_job(tmp_path, "job", devices=4))
    with pytest.raises(SettingsError, match=r"on 3 devices, and 2 GPUs can be .* to 2 at most"):
        check_enough(3, gpus=2, cpu_slots=8)
    check_enough(2, gpus=2, cpu_slots=1)
