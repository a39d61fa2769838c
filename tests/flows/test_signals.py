"""Stop means stop: signals and cancels end training with a checkpoint, and leave nothing behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId, FlowRunFilterName
from prefect.client.schemas.objects import StateType, TaskRun
from prefect.states import Cancelling
from prefect.utilities.engine import capture_sigterm

from modkernel.flows.runtime.interrupts import signals_interrupt
from modkernel.flows.servers.automations import RESTARTED
from modkernel.registry import Registry, Settings
from modkernel.spec import NetworkSpec
from tests.flows.helpers.prefect_client import deployment, prefect_client, wait_for_end
from tests.flows.helpers.processes import (
    ROOT,
    descendants,
    engine_servers,
    engines_of,
    processes,
    processes_of,
    wait_until,
)
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import endless, tiny

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
STOP_SECONDS = 30
"""Within which everything has ended: three times what docs/reliability.md promises, since test
machines are shared."""
NAME = "As I like it"
"""Of a run, as a person types it."""
START_SECONDS = 300
"""Until a first checkpoint is there, on a machine with much else to do."""


def runs_of(home: Path, name: str) -> dict[str, str]:
    """State by name of the MLflow runs of a network and its modules."""
    settings = Settings(home=home)
    client = MlflowClient(settings.mlflow_uri)
    every = [experiment.experiment_id for experiment in client.search_experiments()]
    return {
        str(run.info.run_name): str(run.info.status)
        for run in client.search_runs(every)
        if str(run.info.run_name).startswith(name)
    }


def checkpoints(home: Path) -> list[Path]:
    return list(Settings(home=home).work_dir.glob("*/checkpoint/checkpoint.safetensors"))


@contextmanager
def command(home: Path, spec: NetworkSpec, *run: str) -> Iterator[subprocess.Popen[str]]:
    """The command that trains a network, as a terminal runs it; nothing of it is left after."""
    path = home.parent / "spec.json"
    path.write_text(spec.model_dump_json())
    kept = {name: value for name, value in os.environ.items() if "PREFECT" not in name}
    with subprocess.Popen(
        [sys.executable, *(run or ("-m", "modkernel.flows.cli")), "train", str(path)],
        cwd=ROOT,
        env=kept | {"MODKERNEL_HOME": str(home), "PYTHONFAULTHANDLER": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            for pid in processes_of(home):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextmanager
def training(home: Path, spec: NetworkSpec) -> Iterator[subprocess.Popen[str]]:
    """A command that has written its first checkpoint."""
    with command(home, spec) as process:
        wait_until(
            lambda: bool(checkpoints(home)), START_SECONDS, "the first checkpoint is written"
        )
        yield process


def what_it_said(process: subprocess.Popen[str]) -> str:
    """Its messages until its end; where it does not end, what each of its threads does."""
    try:
        return process.communicate(timeout=120)[1]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        pytest.fail(f"still there after two minutes: {process.communicate()[1]}")


@contextmanager
def training_on(up: Up, spec: NetworkSpec) -> Iterator[subprocess.Popen[str]]:
    """A command in the home of `up` that has written its first checkpoint."""
    path = up.home.parent / f"{spec.name}.json"
    path.write_text(spec.model_dump_json())
    before = len(checkpoints(up.home))
    with subprocess.Popen(
        [sys.executable, "-m", "modkernel.flows.cli", "train", str(path)],
        cwd=ROOT,
        env=up.environment | {"PYTHONFAULTHANDLER": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            wait_until(
                lambda: len(checkpoints(up.home)) > before, START_SECONDS, "the first checkpoint"
            )
            yield process
        finally:
            process.kill()


def test_ctrl_c_ends_a_command(up: Up) -> None:
    """On the server of `up`; the next test has servers that the commands start."""
    with training_on(up, endless("ctrl-c")) as process:
        its = descendants(process.pid)
        assert its, "what trains is another process"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        told = what_it_said(process)
        assert time.monotonic() - began < STOP_SECONDS
        wait_until(lambda: not its & processes().keys(), STOP_SECONDS, "every process has ended")
    check_interrupted(process.returncode, signal.SIGINT, told, "ctrl-c")
    check_stopped(up.home, "ctrl-c")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("after", [0.3, 0.7, 1.2])
def test_a_second_signal_leaves_no_run_open(up: Up, number: signal.Signals, after: float) -> None:
    """It comes while the first one's checkpoint is written, or while the process ends."""
    name = f"twice-{number}-{round(10 * after)}"
    with training_on(up, endless(name)) as process:
        its = descendants(process.pid)
        process.send_signal(number)
        time.sleep(after)
        process.send_signal(number)
        told = what_it_said(process)
        wait_until(lambda: not its & processes().keys(), STOP_SECONDS, "every process has ended")
    assert process.returncode in (128 + number, -number)
    assert "the same command resumes" in told
    assert "Traceback" not in told
    check_stopped(up.home, name)


def check_interrupted(status: int, number: signal.Signals, told: str, name: str) -> None:
    """What a command says, and ends with, that a signal has ended."""
    assert status == 128 + number
    assert f"{name}.hidden-1: interrupted" in told
    assert "of 1000000: the same command resumes." in told
    assert "Traceback" not in told


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command(template: Path, tmp_path: Path, number: signal.Signals) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    with training(home, endless("slow")) as process:
        began = time.monotonic()
        process.send_signal(number)
        told = what_it_said(process)
        assert time.monotonic() - began < STOP_SECONDS
        wait_until(lambda: not processes_of(home), STOP_SECONDS, "every process has ended")
    check_interrupted(process.returncode, number, told, "slow")
    check_stopped(home, "slow")


@pytest.mark.parametrize("flow", [nullcontext, capture_sigterm], ids=["no flow", "in a flow"])
def test_the_exit_status_tells_the_signal_that_came_first(flow: Any) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Ignored under nohup.
    try:
        with pytest.raises(SystemExit) as ended, signals_interrupt(), flow():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.value.code == 128 + signal.SIGHUP


@pytest.mark.long
def test_a_signal_before_the_first_epoch(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    with command(home, endless("slow")) as process:
        job = "*/job.json"
        wait_until(
            lambda: any(Settings(home=home).work_dir.glob(job)), START_SECONDS, "a job is given"
        )
        process.terminate()
        told = what_it_said(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in told
    assert set(runs_of(home, "slow").values()) <= {"KILLED"}
    with Registry.open(Settings(home=home)) as registry:
        assert registry.modules.find() == ()


STORING = """
import os, signal, sys, time
from modkernel.registry.modules import Modules

store = Modules.store

def signalled(self, *arguments, **named):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(1)  # Until the main thread has been interrupted.
    return store(self, *arguments, **named)

Modules.store = signalled
from modkernel.flows.cli import main
main()
"""


@pytest.mark.long
def test_a_signal_while_a_module_is_stored(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    spec = tiny("stored")
    with command(home, spec, "-c", STORING) as process:
        told = what_it_said(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in told
    with Registry.open(Settings(home=home)) as registry:
        assert len(registry.modules.find()) == 1, "what had begun is done, and nothing after it"
        assert registry.verify() == ()
    with command(home, spec) as process:
        what_it_said(process)
    assert process.returncode == 0
    assert set(runs_of(home, "stored").values()) == {"FINISHED"}
    with Registry.open(Settings(home=home)) as registry:
        assert sorted(module.version for module in registry.modules.find()) == [1, 1, 1]
        assert registry.verify() == ()


@pytest.mark.long
def test_no_process_outlives_a_command_that_is_killed(template: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(template, home)
    with training(home, endless("slow")) as process:
        process.kill()
        wait_until(lambda: not processes_of(home), STOP_SECONDS, "every process has ended")


def check_stopped(home: Path, name: str) -> None:
    """Nothing was stored, nobody holds a claim, a checkpoint is there, all runs are ended."""
    assert runs_of(home, name) == {name: "KILLED", f"{name}.hidden-1": "KILLED"}
    assert checkpoints(home)
    with Registry.open(Settings(home=home)) as registry:
        assert not registry.modules.find(name=f"{name}.hidden-1")
        for checkpoint in checkpoints(home):
            claim = registry.claim(checkpoint.parent.parent.name, "a test")
            assert claim is not None
            claim.release()


@contextmanager
def not_started_again(client: SyncPrefectClient) -> Iterator[None]:
    """Switch off, for a while, that a run which crashed starts again."""
    (again,) = client.read_automations_by_name(RESTARTED)
    client.pause_automation(again.id)
    try:
        yield
    finally:
        client.resume_automation(again.id)


def check_tasks_are_shown(client: SyncPrefectClient, run: UUID, name: str) -> None:
    """All modules are shown while the first one trains, each linked to the one below."""
    names = [f"{name}.{module}" for module in ("hidden-1", "hidden-2", "output")]

    def shown() -> dict[str, TaskRun]:
        tasks = client.read_task_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run])))
        # Until it starts, a task's name has three more letters.
        return {next(filter(task.name.startswith, names), task.name): task for task in tasks}

    wait_until(lambda: set(shown()) == set(names), 60, "all tasks are shown")
    tasks = shown()
    assert [str(tasks[name].state_name) for name in names] == ["Running", "Pending", "Pending"]
    for below, above in pairwise(names):
        inputs = [source for sources in tasks[above].task_inputs.values() for source in sources]
        assert tasks[below].id in [getattr(source, "id", None) for source in inputs]


@contextmanager
def served(up: Up, client: SyncPrefectClient, spec: NetworkSpec) -> Iterator[UUID]:
    """A served run that has written its first checkpoint; it is over after the block."""
    before = len(checkpoints(up.home))
    run = client.create_flow_run_from_deployment(
        deployment(client, "train-network").id,
        parameters={"spec": spec.model_dump(mode="json")},
        name=NAME,
    )
    try:
        wait_until(
            lambda: len(checkpoints(up.home)) > before, START_SECONDS, "the first checkpoint"
        )
        yield run.id
    finally:
        state = client.read_flow_run(run.id).state
        if state is None or not state.is_final():
            client.set_flow_run_state(run.id, Cancelling())


@pytest.mark.parametrize("how", ["cancel", pytest.param("SIGTERM", marks=pytest.mark.long)])
def test_a_served_run_is_ended(up: Up, how: str) -> None:
    name = f"served-{how.lower()}"
    wait_until(lambda: bool(engine_servers(up.home)), 120, "there is a process that forks runs")
    with (
        prefect_client(up.prefect, up.home) as client,
        not_started_again(client),
        served(up, client, endless(name)) as run,
    ):
        assert client.read_flow_run(run).name == NAME
        check_tasks_are_shown(client, run, name)
        engine = engines_of(up.home)
        assert {processes()[pid] for pid in engine} == engine_servers(up.home)
        began = time.monotonic()
        if how == "cancel":
            client.set_flow_run_state(run, Cancelling())
        else:
            for pid in engine:
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not engine & set(processes_of(up.home)), 60, "the run's process ends")
        assert time.monotonic() - began < STOP_SECONDS
        state = wait_for_end(client, run, 60).state
        assert state is not None
        assert state.type == (StateType.CANCELLED if how == "cancel" else StateType.CRASHED)
    check_stopped(up.home, name)


@pytest.mark.long
def test_a_cancel_in_prefect_ends_a_command(up: Up) -> None:
    with (
        training_on(up, endless("cancelled")) as command,
        prefect_client(up.prefect, up.home) as client,
    ):
        named = FlowRunFilter(name=FlowRunFilterName(any_=["cancelled"]))
        (run,) = client.read_flow_runs(flow_run_filter=named)
        began = time.monotonic()
        client.set_flow_run_state(run.id, Cancelling())
        told = what_it_said(command)
        assert time.monotonic() - began < STOP_SECONDS
        state = client.read_flow_run(run.id).state
        assert state is not None
        assert state.type == StateType.CANCELLED
    assert command.returncode == 1
    assert "modkernel: Cancelled in Prefect" in told
    assert "Traceback" not in told
    check_stopped(up.home, "cancelled")
