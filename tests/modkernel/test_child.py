"""Children as real processes: results, errors, kills, the lifeline, and the slots they hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from modkernel.errors import (
    ChildError,
    ModkernelError,
    PairError,
    SettingsError,
    SpecError,
    StoppedError,
)
from modkernel.jobs import slots
from modkernel.jobs.client import ForkServer
from modkernel.jobs.slots import device_slot, gpus, hold
from tests.modkernel.helpers.jobs import make_job
from tests.modkernel.helpers.small_disk import small_disk

TARGET = "tests.modkernel.helpers.quick_server:run"


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(TARGET)
    server.start()
    yield server
    server.close()


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {seconds} s for {condition}")


def events(work: Path, name: str = "epoch") -> list[dict[str, Any]]:
    path = work / "progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [event for line in lines if (event := json.loads(line))["event"] == name]


def alive(pid: int) -> bool:
    # A zombie that init has not reaped yet has ended, too.
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_job_leaves_its_result_and_reports_every_step(server: ForkServer, tmp_path: Path) -> None:
    seen: list[Any] = []
    job = make_job(tmp_path / "job")
    server.run(job, seen.append)
    assert job.result.is_dir()
    assert [e["event"] for e in seen] == ["started", "epoch", "epoch", "epoch", "finished"]
    assert [e["epoch"] for e in seen if e["event"] == "epoch"] == [1, 2, 3]
    assert seen[-1]["peak_memory_bytes"] > 50_000_000
    assert seen[0]["pid"] != os.getpid()
    server.run(job, seen.append)
    assert len(seen) == 5, "a finished job starts no second child"


def test_a_child_has_its_threads_and_no_cuda(server: ForkServer, tmp_path: Path) -> None:
    seen: list[Any] = []
    server.run(make_job(tmp_path / "job", "describe", threads=3), seen.append)
    (line,) = (event for event in seen if event["event"] == "epoch")
    assert (line["threads"], line["cuda"], line["device"]) == (3, False, "cpu")


@pytest.mark.parametrize(
    ("what", "error", "message"),
    [
        ("pair", PairError, "no same pair"),
        ("name", SpecError, "Unknown kernel 'x': use one of relu"),
        ("base", ModkernelError, "something"),
        ("bug", ChildError, "ZeroDivisionError: division by zero.*log.txt"),
        ("memory", ChildError, "out of memory.*batch_size"),
        ("disk", ChildError, "^The disk is full, on which .*the same command goes on"),
    ],
)
def test_an_error_keeps_its_type_and_message(
    server: ForkServer, tmp_path: Path, what: str, error: type[ModkernelError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        server.run(make_job(tmp_path / "job", what))
    assert type(caught.value) is error
    assert not getattr(caught.value, "died", False)
    assert not (tmp_path / "job" / "result").exists()
    if what == "bug":
        assert "Traceback" in (tmp_path / "job" / "log.txt").read_text()


def test_a_child_whose_disk_is_full_says_so_and_the_next_one_goes_on(
    server: ForkServer, tmp_path: Path
) -> None:
    """Its progress fills the disk, and then there is no room for the file that tells its error."""
    work, reached = tmp_path / "job", []

    def follow(event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch":
            reached.append(event["epoch"])

    with small_disk(work) as disk:
        disk.leave(6 * 4096)
        with pytest.raises(ChildError, match=r"^The disk is full, on which .*goes on") as caught:
            server.run(make_job(work, "wordy"), follow)
        assert not caught.value.died
        assert not (work / "error.json").exists()
        subprocess.run(disk.grow, check=True)
        server.run(make_job(work, "wordy"), follow)
    assert reached[-1] == 100
    assert len(set(reached)) >= 98, "at most the lines that had no room are lost"
    server.run(make_job(tmp_path / "next"))


def test_a_killed_child_is_named_and_the_server_lives_on(
    server: ForkServer, tmp_path: Path
) -> None:
    with pytest.raises(ChildError, match=r"SIGKILL.*out of memory.*batch_size") as caught:
        server.run(make_job(tmp_path / "killed", "kill"))
    assert caught.value.died
    server.run(make_job(tmp_path / "next"))


def test_stopping_leaves_a_checkpoint_to_go_on_from(server: ForkServer, tmp_path: Path) -> None:
    stop = threading.Event()
    job = make_job(tmp_path / "job", "long")
    with pytest.raises(StoppedError):
        server.run(job, lambda event: stop.set() if event["event"] == "epoch" else None, stop)
    reached = int((tmp_path / "job" / "checkpoint").read_text())
    server.run(make_job(tmp_path / "job"))
    done = [event["epoch"] for event in events(tmp_path / "job")]
    assert done == list(range(1, max(reached, 3) + 1)), "no step twice, none left out"


def test_a_child_is_stopped_while_its_follower_waits(server: ForkServer, tmp_path: Path) -> None:
    """As one does whose server is away."""
    stop = threading.Event()
    pids: list[int] = []

    def follow(event: Mapping[str, Any]) -> None:
        if event["event"] == "started":
            pids.append(event["pid"])
        elif not stop.is_set():
            stop.set()
            until(lambda: not alive(pids[0]))

    with pytest.raises(StoppedError, match="stopped"):
        server.run(make_job(tmp_path / "job", "long"), follow, stop)


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (None, "before it had written a checkpoint: the same command begins its work again."),
        (".a.0.tmp", "before it had written a checkpoint: the same command begins its work again."),
        ("a.safetensors", "could write a checkpoint: the same command resumes from the one before"),
    ],
)
def test_what_the_same_command_does_is_told_as_it_is(
    server: ForkServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    file: str | None,
    told: str,
) -> None:
    monkeypatch.setattr("modkernel.jobs.client.STOP_GRACE_SECONDS", 0.0)
    stop = threading.Event()
    if file is not None:
        written = tmp_path / "job" / "checkpoint" / "first" / file
        written.parent.mkdir(parents=True)
        written.touch()
    with pytest.raises(StoppedError, match=told):
        server.run(make_job(tmp_path / "job", "deaf"), lambda _: stop.set(), stop)


def test_a_child_that_nobody_follows_any_more_stops(server: ForkServer, tmp_path: Path) -> None:
    work = tmp_path / "job"

    def fail(event: Mapping[str, Any]) -> None:
        if event["event"] == "epoch":
            raise RuntimeError("the follower is gone")

    with pytest.raises(RuntimeError, match="follower"):
        server.run(make_job(work, "long"), fail)
    (started,) = events(work, "started")
    until(lambda: not alive(started["pid"]))


def test_one_slot_lets_one_child_compute_at_a_time(server: ForkServer, tmp_path: Path) -> None:
    both = [tmp_path / "a", tmp_path / "b"]
    waits: list[Any] = []
    threads = [
        threading.Thread(
            target=server.run,
            args=(make_job(work), lambda e: waits.append(e) if e["event"] == "waiting" else None),
        )
        for work in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first, second = sorted(
        ([event["time"] for event in events(work)] for work in both), key=lambda times: times[0]
    )
    assert len(first) == len(second) == 3
    assert first[-1] <= second[0]
    assert waits == [{"event": "waiting", "for": "device"}]


def test_two_slots_let_two_children_compute_at_once(server: ForkServer, tmp_path: Path) -> None:
    stop = threading.Event()

    def run(work: Path) -> None:
        with pytest.raises(StoppedError):
            server.run(make_job(work, "long", cpu_slots=2), stop=stop)

    threads = [threading.Thread(target=run, args=(tmp_path / name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    until(lambda: events(tmp_path / "a") and events(tmp_path / "b"))
    stop.set()
    for thread in threads:
        thread.join()


def test_two_children_never_work_in_one_folder(server: ForkServer, tmp_path: Path) -> None:
    work = tmp_path / "job"
    threads = [
        threading.Thread(target=server.run, args=(make_job(work, cpu_slots=2),)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [event["epoch"] for event in events(work)] == [1, 2, 3]


def test_a_slot_is_free_as_soon_as_its_child_is_killed(server: ForkServer, tmp_path: Path) -> None:
    def run() -> None:
        with pytest.raises(ChildError):
            server.run(make_job(tmp_path / "long", "long"))

    thread = threading.Thread(target=run)
    thread.start()
    (started,) = until(lambda: events(tmp_path / "long", "started"))
    os.kill(started["pid"], signal.SIGKILL)
    server.run(make_job(tmp_path / "next"))
    thread.join()


@pytest.mark.parametrize(
    "with_server",
    [pytest.param(False, marks=pytest.mark.long), True],
    ids=["flow", "flow and fork server"],
)
def test_a_child_stops_when_its_flow_is_killed(
    server: ForkServer, tmp_path: Path, with_server: bool
) -> None:
    """The flow is itself a child here, for it is forked in no time."""

    def run() -> None:
        with pytest.raises(ChildError, match="SIGKILL"):
            server.run(make_job(tmp_path / "flow", "flow"))

    thread = threading.Thread(target=run)
    thread.start()
    work = tmp_path / "flow" / "job"
    until(lambda: events(work))
    flow = events(tmp_path / "flow", "started")[0]["pid"]
    child = events(work, "started")[0]["pid"]
    own_server = parent_of(child)
    assert parent_of(own_server) == flow
    os.kill(flow, signal.SIGKILL)
    if with_server:
        os.kill(own_server, signal.SIGKILL)
    thread.join()
    until(lambda: not alive(child) and not alive(own_server), 10)
    assert json.loads((work / "error.json").read_text())["type"] == "StoppedError"


def test_a_killed_fork_server_is_replaced(server: ForkServer, tmp_path: Path) -> None:
    caught: list[ChildError] = []

    def run() -> None:
        with pytest.raises(ChildError, match="starts training processes has died") as error:
            server.run(make_job(tmp_path / "job", "long"))
        caught.append(error.value)

    thread = threading.Thread(target=run)
    thread.start()
    child = until(lambda: events(tmp_path / "job", "started"))[0]["pid"]
    until(lambda: events(tmp_path / "job"))
    os.kill(parent_of(child), signal.SIGKILL)
    thread.join()
    assert caught[0].died
    until(lambda: not alive(child), 10)
    reached = int((tmp_path / "job" / "checkpoint").read_text())
    stop = threading.Event()
    seen: list[Any] = []

    def follow(event: Any) -> None:
        if event["event"] == "epoch":
            seen.append(event["epoch"])
            stop.set()

    with pytest.raises(StoppedError):
        server.run(make_job(tmp_path / "job", "long"), follow, stop)
    assert seen[0] == reached + 1, "the next child resumes where the last one stopped"


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = ForkServer("tests.modkernel.helpers.jobs:no_such_function")
    with pytest.raises(ChildError, match="no_such_function"):
        server.run(make_job(tmp_path / "job"))


def test_a_lock_file_that_was_removed_is_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold([path], lambda: False, lambda: None):
        path.unlink()
        with hold([path], lambda: False, lambda: pytest.fail("nobody holds the new file")):
            assert path.exists()


def test_waiting_for_a_lock_can_be_stopped(tmp_path: Path) -> None:
    waits: list[int] = []
    with (
        hold([tmp_path / "lock"], lambda: False, lambda: None),
        pytest.raises(StoppedError),
        hold([tmp_path / "lock"], lambda: bool(waits), lambda: waits.append(1)),
    ):
        pass
    assert waits == [1]


def test_a_gpu_slot_names_the_gpu_that_it_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5,")
    taken = []
    for _ in range(2):
        held = device_slot(tmp_path, "auto", 1, lambda: False, lambda: None)
        assert held.__enter__() == "cuda"
        taken.append((held, os.environ["CUDA_VISIBLE_DEVICES"]))
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [name for _, name in taken] == ["3", "5"]
    for held, _ in taken:
        held.__exit__(None, None, None)


def test_no_gpu_is_an_error_only_where_one_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots.torch.cuda, "device_count", lambda: 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ()
    with device_slot(tmp_path, "auto", 1, lambda: False, lambda: None) as device:
        assert device == "cpu"
    with (
        pytest.raises(SettingsError, match="'auto' or 'cpu'"),
        device_slot(tmp_path, "cuda", 1, lambda: False, lambda: None),
    ):
        pass
