"""Deployments of spec files: made from the terminal, run without typing by a server that runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import prefect.context
import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound

from modkernel.errors import NotFoundError, SpecError
from modkernel.flows.deployments.of_specs.kinds import AnySpec, kind_of
from modkernel.flows.deployments.of_specs.records import cron_schedule, deploy, deployed, undeploy
from modkernel.flows.deployments.of_specs.summary import summary
from modkernel.flows.search.spec import SearchSpec
from modkernel.flows.servers.registration import KeptDeployment
from modkernel.flows.specs.composition import CompositionSpec
from modkernel.flows.specs.read import read_spec, read_spec_of_some_kind
from modkernel.flows.study.spec import StudySpec
from modkernel.flows.train_network import train_network
from modkernel.spec import Spec
from tests.flows.helpers.prefect_client import prefect_client, wait_for_end
from tests.flows.helpers.processes import ROOT, wait_until
from tests.flows.helpers.servers import Up
from tests.flows.helpers.specs import tiny
from tests.flows.test_cli import Run, home, run

__all__ = ["home", "run"]

SETTINGS = "GLOBAL_SETTINGS_CONTEXT"
"""What Prefect knows of the environment, which commands in this process refresh."""
SECONDS = 300
SEARCH = read_spec(ROOT / "examples/search_digits.yaml", SearchSpec)
STUDY = read_spec(ROOT / "examples/study_digits.yaml", StudySpec)


def written(folder: Path, spec: Spec) -> str:
    path = folder / f"{getattr(spec, 'name')}.yaml"  # noqa: B009
    path.write_text(yaml.safe_dump(spec.model_dump(mode="json")))
    return str(path)


def run_by_one_click(client: SyncPrefectClient, id: str) -> FlowRun:
    """A run as Prefect's 'Quick run' makes it; it must complete."""
    started = client.create_flow_run_from_deployment(id)  # type: ignore[arg-type]
    run = wait_for_end(client, started.id, SECONDS)
    assert run.state is not None
    assert run.state_type == StateType.COMPLETED, run.state.message
    return run


@pytest.fixture
def home_of_up(up: Up, monkeypatch: pytest.MonkeyPatch) -> Iterator[Up]:
    """What this process does is done in that home, and by the umask of all commands."""
    monkeypatch.setenv("MODKERNEL_HOME", str(up.home))
    umask = os.umask(0o077)
    yield up
    os.umask(umask)


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_a_spec_is_deployed_scheduled_run_and_removed(home_of_up: Up, tmp_path: Path) -> None:
    up = home_of_up
    spec = tiny("nightly", (1,), seed=7)  # Trained by no other test.
    path = Path(written(tmp_path, spec))
    cron = ("--cron", "0 3 * * *", "--timezone", "Europe/Berlin")
    made = up.modkernel("deploy", str(path), *cron)
    assert (made["flow"], made["schedules"]) == ("train-network", ["0 3 * * * Europe/Berlin"])
    assert made["description"] == summary(spec)
    assert made["next_run"].endswith("+00:00"), "before the server has made a run"
    assert (made["last_run"], made["last_state"]) == (None, None)
    with prefect_client(up.prefect, up.home) as client:
        run = run_by_one_click(client, made["id"])
        assert run.parameters == {"spec": spec.model_dump(mode="json")}
        kept = client.read_deployment(made["id"])
        assert kept.parameter_openapi_schema is not None
        assert kept.parameter_openapi_schema["properties"] == {}

        written(tmp_path, tiny("nightly", (1,), seed=3))
        again = deploy(path, None, cron_schedule("30 4 * * *", "UTC"))
        assert (again.id, again.schedules) == (made["id"], ("30 4 * * * UTC",))
        assert client.read_deployment(made["id"]).parameters["spec"]["seed"] == 3
        assert deploy(path, None, None).schedules == again.schedules, "only --cron changes them"
        wait_until(lambda: deployed()[0].next_run is not None, SECONDS, "runs are made ahead")

        module = f"{spec.name}.hidden-1"
        composition = CompositionSpec.model_validate(
            {"name": "nightly-composed", "hidden": module, "output": {"method": "ridge"}}
        )
        assert deployed()[0].last_state == "Completed"
        composed = deploy(Path(written(tmp_path, composition)), "composed", None)
        assert run_by_one_click(client, composed.id).parameters["hidden"] == module
        with pytest.raises(SpecError, match="made of no spec"):
            deploy(path, "train-network", None)
        with pytest.raises(SpecError, match="train-network/nightly already"):
            deploy(Path(written(tmp_path, composition)), "nightly", None)
        with pytest.raises(NotFoundError, match="choose from composed, nightly"):
            undeploy("daily")
        for other in (SEARCH, STUDY):
            deploy(Path(written(tmp_path, other)), None, None)
        listed = deployed()
        assert [(one.name, one.flow) for one in listed] == [
            ("composed", "compose-network"),
            ("digits-study", "transfer-study"),
            ("nightly", "train-network"),
            ("search-digits", "search-modules"),
        ]
        for one in listed:
            assert undeploy(one.name) == one.flow
        assert deployed() == ()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_what_is_removed_meanwhile_is_not_made_again(prefect_server: str) -> None:
    made = KeptDeployment.of(train_network, "gone", "", {}, of_spec=True)
    with get_client(sync_client=True) as client:
        kept = client.read_deployment(made.apply())
        served = KeptDeployment.of_kept(train_network, kept)
        client.delete_deployment(kept.id)
        assert served.apply() == kept.id
        with pytest.raises(ObjectNotFound):
            client.read_deployment_by_name("train-network/gone")


def test_a_schedule_that_cannot_be_is_told_in_one_sentence() -> None:
    with pytest.raises(SpecError, match="--cron 'at three' is no schedule"):
        cron_schedule("at three", "UTC")
    with pytest.raises(SpecError, match="no time zone 'Mars/Base'"):
        cron_schedule("0 3 * * *", "Mars/Base")


def test_without_a_server_it_says_how_to_start_one(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefect.context, SETTINGS, getattr(prefect.context, SETTINGS))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    done = run("deploy", written(tmp_path, tiny()))
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert "start 'modkernel up'" in done.err


def test_the_example_of_a_composition_is_one() -> None:
    found = read_spec_of_some_kind(ROOT / "examples/compose_champion.yaml", kind_of)
    assert isinstance(found, CompositionSpec)


@pytest.mark.parametrize(
    "spec",
    [
        tiny(),
        SEARCH,
        STUDY,
        CompositionSpec(name="c", hidden="tiny.hidden-1@champion"),
        CompositionSpec(name="c", hidden=("a.hidden-1", "b.hidden-1"), weights=(1, 2)),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_the_kind_of_a_file_is_told_by_its_fields(spec: AnySpec, tmp_path: Path) -> None:
    found = read_spec_of_some_kind(Path(written(tmp_path, spec)), kind_of)
    assert found == spec
    assert spec.name in summary(found)


@pytest.mark.parametrize(
    ("field", "kind"), [("shelf", StudySpec), ("others", StudySpec), ("beam", SearchSpec)]
)
def test_one_field_that_no_network_has_tells_the_kind(field: str, kind: type[AnySpec]) -> None:
    assert kind_of({"name": "s", "dataset": {"name": "digits"}, field: []}) is kind


def test_the_labels_of_a_file_are_told() -> None:
    told = summary(CompositionSpec(name="c", hidden="a.hidden-1", labels="/data/ten.csv"))
    assert "output module by cross_entropy with the labels in /data/ten.csv; seed 0." in told
    assert "all labels" not in told
