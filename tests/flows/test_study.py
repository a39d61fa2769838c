"""The transfer study on digits: what it trains, reuses, computes, reports and refuses."""

from __future__ import annotations

import csv
import io
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from prefect.settings import PREFECT_API_URL
from pydantic import TypeAdapter

from modkernel.data import DataPlaces, Dataset, load_dataset
from modkernel.errors import ClassError, InterfaceError, ModkernelError, MomentsError, SpecError
from modkernel.features.extractor import frozen_chain
from modkernel.flows.runtime.events import EpochDone, Event, watch
from modkernel.flows.specs.read import read_spec
from modkernel.flows.study.new_module import judge_advice
from modkernel.flows.study.plan import default_tasks, names_of, plan_study
from modkernel.flows.study.result import StudyResult
from modkernel.flows.study.spec import OtherData, StudySpec
from modkernel.flows.study.static import STATIC
from modkernel.flows.tasks.work_folder import sweep_work
from modkernel.flows.transfer_study import transfer_study
from modkernel.kernels import make_kernel
from modkernel.registry import Registry
from modkernel.reuse.moments import accumulate
from modkernel.reuse.new_module import Evidence
from modkernel.reuse.scores import DEFAULT_SCORE, SCORES, leep, reusability
from modkernel.reuse.task import Task, parse_task
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    Name,
    OutputSpec,
    Recipe,
)
from modkernel.training.heads import fit_heads, predict_heads
from tests.flows.test_flows import markdown
from tests.flows.test_kills import until
from tests.registry.test_store import kept_folder

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def small(name: str = "small", epochs: int = 1, **changes: Any) -> StudySpec:
    """Three tasks, one with joined classes."""
    recipe = Recipe(epochs=epochs, batch_size=64, learning_rate=0.05, precision="float32")
    fields: dict[str, Any] = {
        "name": name,
        "tasks": ("1, 7", "3, 8", "round=3+8, straight=1+7"),
        "backbone": BackboneSpec(name="mlp", width=16, depth=1),
        "hidden": HiddenSpec(kernel=KernelSpec(name="relu"), recipe=recipe),
        "output": OutputSpec(method="ridge"),
    }
    return StudySpec(**fields | changes)


def bars(folder: Path) -> DatasetSpec:
    """Images of eight by eight pixels with one bright row, in a file: another data set."""
    draw = np.random.default_rng(0)
    y = np.arange(300) % 2
    x = draw.integers(0, 100, (300, 8, 8), dtype=np.uint8)
    x[np.arange(300), 2 + 3 * y] += 150
    np.savez(folder / "bars.npz", x=x, y=np.array([1, 7])[y])
    return DatasetSpec(name="arrays", path=str(folder / "bars.npz"), test_fraction=0.2)


@pytest.fixture
def data(registry: Registry) -> Dataset:
    """The digits of all tasks."""
    places = DataPlaces(registry.settings.data_root, registry.settings.cache_dir)
    return load_dataset(DatasetSpec(classes=("1", "3", "7", "8")), places)


def features(registry: Registry, module_id: str, data: Dataset, split: str) -> torch.Tensor:
    chain = registry.modules.chain(registry.modules.resolve(module_id))
    part = getattr(data, split).examples
    (raw,) = part.batches([torch.arange(len(part))], torch.device("cpu"))
    with torch.no_grad():
        h = frozen_chain([registry.modules.fetch(record) for record in chain])(raw)
    return make_kernel(chain[-1].spec.interface.kernel).features(h)


def of(
    task: Task, data: Dataset, split: str, phi: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = task.assign(data.classes)[getattr(data, split).labels]
    return phi[labels >= 0], labels[labels >= 0]


def test_a_study_is_reported_and_its_matrices_hold_what_direct_computation_gives(
    registry: Registry, data: Dataset, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    result = transfer_study(small(), str(folder))
    assert (result.trained_modules, result.reused_modules, result.evaluated_modules) == (3, 0, 3)
    names = [task.name for task in result.tasks]
    assert sorted(names) == ["1-7", "3-8", "round-straight"]
    assert result.left_out == {}
    assert [score.name for score in result.scores] == list(SCORES)
    assert result.baselines[0].agreement.spearman is None, "modules of one size"
    row, column = names.index("1-7"), names.index("round-straight")
    target = parse_task("round=3+8, straight=1+7")
    phi = features(registry, result.tasks[row].module_id, data, "train")
    x, y = of(target, data, "train", phi)
    fit = fit_heads(x, y, torch.arange(len(y))[None], 2, OutputSpec(method="ridge"), 0)
    test = features(registry, result.tasks[row].module_id, data, "test")
    x_test, y_test = of(target, data, "test", test)
    accuracy = (predict_heads(fit, x_test)[0] == y_test).double().mean().item()
    assert result.truth[row][column] == pytest.approx(accuracy)
    found = {score.name: score.matrix[row][column] for score in result.scores}
    # Every class has fewer examples than are measured, so all of them are.
    moments = accumulate([(phi, data.train.labels)], data.classes, data.fingerprint)
    assert found[DEFAULT_SCORE] == pytest.approx(reusability(moments, target), rel=1e-5)
    contrastive = SCORES["contrastive"].function(x, y)
    assert found["contrastive"] == pytest.approx(contrastive, rel=1e-5)
    # The source's own output module, trained for 1 against 7.
    own, labels = of(parse_task("1, 7"), data, "train", phi)
    head = fit_heads(own, labels, torch.arange(len(labels))[None], 2, OutputSpec(), 0)
    theta = (x @ head.weight[0].T + head.bias[0]).double().softmax(1)
    assert found["leep"] == pytest.approx(leep(theta, y), rel=1e-3)

    assert StudyResult.model_validate_json((folder / "results.json").read_bytes()) == result
    rows = list(csv.DictReader(io.StringIO((folder / "scores.csv").read_text())))
    assert len(rows) == 9
    assert rows[1]["source"] == result.tasks[0].name
    assert rows[1]["target"] == result.tasks[1].name
    assert float(rows[1]["ground_truth"]) == result.truth[0][1]
    assert float(rows[1]["balanced_accuracy"]) == result.balanced[0][1]
    assert float(rows[1]["worst_class_accuracy"]) == result.worst[0][1] <= result.balanced[0][1]
    assert float(rows[1][DEFAULT_SCORE]) == result.scores[0].matrix[0][1]
    for picture in ("heat_maps.png", "tasks.png"):
        with Image.open(folder / picture) as drawn:
            assert drawn.size[0] > 500
    card = markdown("study-small")
    assert "of 3 it could not be told" in card
    assert "| logme (default) |" in card
    assert "| static_size |" in card
    assert card.count("data:image/png;base64") == 2
    run = registry.backends.client.get_run(result.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["seconds/training"] == pytest.approx(result.seconds.training)
    files = {file.path for file in registry.backends.client.list_artifacts(result.run_id)}
    assert {"results.json", "scores.csv", "study.json", "figures"} <= files
    seconds = result.seconds
    assert seconds.training == pytest.approx(sum(task.seconds for task in result.tasks))
    assert seconds.scores_share > 0
    assert seconds.features > 0


@pytest.mark.long
def test_a_study_of_several_data_sets_and_backbones(registry: Registry, tmp_path: Path) -> None:
    shelf = tuple(BackboneSpec(name="mlp", width=8 * n, depth=n) for n in (1, 2))
    others = (OtherData(dataset=bars(tmp_path), tasks=("1, 7",)),)
    spec = small(shelf=shelf, tasks=("1, 7", "3, 8"), others=others)
    result = transfer_study(spec, str(tmp_path / "out"))
    # Whoever was trained on bars, which differ by a row of pixels, tells them apart.
    names = [task.name for task in result.tasks]
    assert sorted(names) == ["arrays-1-7", "digits-1-7", "digits-3-8"]
    own = names.index("arrays-1-7")
    assert result.truth[own][own] > 0.95
    assert len({result.truth[own][names.index("digits-1-7")], result.truth[own][own]}) == 2
    assert result.left_out.keys() == {"leep", "nce"}
    assert "trained on other data" in result.left_out["leep"]
    assert result.dataset == "digits and arrays"
    folder = tmp_path / "out"
    assert StudyResult.model_validate_json((folder / "results.json").read_bytes()) == result
    rows = list(csv.DictReader(io.StringIO((folder / "scores.csv").read_text())))
    assert len(rows) == 9
    size, depth, examples = result.baselines
    assert [size.name, depth.name, examples.name] == list(STATIC)
    sizes = {"mlp, width 8, depth 1": 8 * 66, "mlp, width 16, depth 2": 16 * 66 + 16 * 18}
    for place, task in enumerate(result.tasks):
        expected = sizes[task.backbone]
        assert size.matrix[place] == (expected,) * 3
        assert depth.matrix[place] == (1 + (expected > 1000),) * 3
        assert float(rows[3 * place]["static_size"]) == expected
    assert len(set(examples.matrix)) > 1
    assert size.agreement.lost is not None
    assert result.training_advice is not None
    assert result.training_advice.unsure == 3, "of two other tasks nothing can be said"


@pytest.mark.long
def test_a_later_call_makes_only_what_is_missing(registry: Registry) -> None:
    first = transfer_study(small())
    events: list[Event] = []
    with watch(events.append):
        second = transfer_study(small())
    assert (second.trained_modules, second.reused_modules, second.evaluated_modules) == (0, 3, 0)
    assert not [event for event in events if isinstance(event, EpochDone)]
    assert second.truth == first.truth
    assert [score.matrix for score in second.scores] == [score.matrix for score in first.scores]
    assert second.run_id == first.run_id
    spent = second.seconds.model_dump(exclude={"flow", "scores"})
    assert spent == first.seconds.model_dump(exclude={"flow", "scores"})
    assert (Path(first.folder) / "results.json").is_file()

    # A task more takes one module more, and another output module evaluates all again.
    more = small(tasks=(*(small().tasks or ()), "1, 8"))
    assert transfer_study(more).trained_modules == 1
    other = transfer_study(small(output=OutputSpec(method="ridge", ridge=10)))
    assert (other.trained_modules, other.evaluated_modules) == (0, 3)
    # Lost ones are made again.
    for record in registry.modules.find(kind="hidden"):
        for kept in registry.ground_truths.of(record):
            registry.ground_truths.copy_of(kept).unlink()
            (kept_folder(registry, record) / kept.path).unlink()
    again = transfer_study(small())
    assert (again.trained_modules, again.evaluated_modules) == (0, 3)
    assert [score.name for score in again.scores] == [score.name for score in first.scores]


def start_study(spec: StudySpec, folder: Path) -> subprocess.Popen[bytes]:
    """Run the study in a process, on the same home and the same Prefect server."""
    source = folder / "spec.json"
    source.write_text(spec.canonical_json())
    environment = {**os.environ, "PREFECT_API_URL": str(PREFECT_API_URL.value())}
    command = [
        sys.executable,
        "-m",
        "tests.flows.helpers.run_study",
        str(source),
        str(folder / "result"),
    ]
    with (folder / "study.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.mark.long
def test_a_killed_study_is_resumed(registry: Registry, tmp_path: Path) -> None:
    """Killed with a module stored and others in work: each is trained once in all."""
    spec = small("killed", epochs=60)
    study = start_study(spec, tmp_path)
    try:
        until(lambda: registry.modules.find() or study.poll() is not None)
        assert study.poll() is None, (tmp_path / "study.log").read_text()
    finally:
        study.kill()
        study.wait()
    stored = {record.id for record in registry.modules.find()}
    assert stored
    assert not list(registry.settings.home.glob("studies/*"))
    result = transfer_study(spec)
    assert {task.module_id for task in result.tasks if task.reused} == stored
    assert (result.trained_modules, result.evaluated_modules) == (3 - len(stored), 3)
    client = registry.backends.client
    assert {record.id for record in registry.modules.find()} == {
        task.module_id for task in result.tasks
    }
    for record in registry.modules.find():
        assert len(client.search_model_versions(f"name = '{record.name}'")) == 1
        steps = [m.step for m in client.get_metric_history(record.run_id or "", "objective")]
        assert sorted(steps) == list(range(1, 61)), "every epoch once"
    experiment = client.get_experiment_by_name("digits")
    found = client.search_runs([experiment.experiment_id], "tags.network = 'killed'")
    runs = {run.info.run_id: run for run in found}
    assert runs.keys() == {result.run_id, *(record.run_id for record in registry.modules.find())}
    assert runs[result.run_id].info.status == "FINISHED"
    assert not registry.verify()

    def swept() -> bool:
        sweep_work(registry)  # Of the killed flow's claims each ends in its time.
        return not list(registry.settings.work_dir.iterdir())

    until(swept)


def test_a_study_is_refused_before_it_trains(registry: Registry, tmp_path: Path) -> None:
    wrong: list[tuple[type[ModkernelError], str, dict[str, Any]]] = [
        (SpecError, "at least 3", {"tasks": ("1, 7", "3, 8")}),
        (SpecError, "at least 3", {"tasks": None, "dataset": DatasetSpec(classes=("1", "7"))}),
        (SpecError, "another task", {"tasks": ("1, 7", "3, 8", "straight=7, b=1")}),
        (MomentsError, "4 classes and 9000", {"backbone": BackboneSpec(width=9000, depth=1)}),
        (ClassError, "two sides", {"tasks": ("1, 7", "3, 8", "5")}),
        (ClassError, "'cat'", {"tasks": ("1, 7", "3, 8", "cat, 5")}),
        (ClassError, "more than once", {"tasks": ("1, 7", "3, 8", "a=1+2, b=2+3")}),
        (InterfaceError, "set image_size: 8 and channels: 1 in its dataset",
            {"others": (OtherData(dataset=DatasetSpec(image_size=16)),)}),
        (ModkernelError, "flip", {"hidden": StudySpec(name="x").hidden, "dataset": DatasetSpec(
            name="arrays", path=str(vectors(tmp_path)))}),
    ]  # fmt: skip
    for error, words, change in wrong:
        with pytest.raises(error, match=words):
            plan_study(registry, small(**change))  # With which the flow begins.
    with pytest.raises(SpecError, match="at least 3"):
        transfer_study(small(tasks=("1, 7", "3, 8")))
    assert not registry.modules.find()
    assert not list(registry.settings.work_dir.iterdir())


def vectors(folder: Path) -> Path:
    """Points of four classes, which cannot be flipped."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.array(["1", "3", "7", "8"]), 30)
    path = folder / "points.npz"
    np.savez(path, x=rng.normal(size=(120, 4)).astype("float32"), y=labels)
    return path


def test_what_a_study_cannot_mean_is_no_spec() -> None:
    for words, change in [
        ("all labels", {"output": OutputSpec(labels_per_class=1)}),
        ("leave groups out", {"dataset": DatasetSpec(groups={"a": ("1",), "b": ("2",)})}),
        ("extra", {"classes": ("1", "2")}),
    ]:
        with pytest.raises(ValueError, match=words):
            small(**change)


def test_the_default_tasks_are_all_pairs_of_six_classes(registry: Registry) -> None:
    plan = plan_study(registry, small(tasks=None))
    assert [task.name for task in plan.tasks[:6]] == ["0-1", "0-2", "0-3", "0-4", "0-5", "1-2"]
    assert len(plan.tasks) == 15
    assert plan.parts[0].info.classes == ("0", "1", "2", "3", "4", "5")
    names = ["bird", "truck", "deer", "automobile", "horse", "dog", "cat"]
    tasks = default_tasks(names)
    assert len(tasks) == 15
    assert tasks[0].name == "deer-horse"
    assert all("bird" not in task.classes for task in tasks)


def test_the_advice_to_train_is_judged_by_the_other_tasks() -> None:
    """Six tasks alike but the last, whose own module is bad, and which reuse serves worse still."""
    accuracies = (0.91, 0.92, 0.93, 0.94, 0.95, 0.60)
    own = [Evidence("mlp", "digits", 2, 100, each, 1.0) for each in accuracies]
    balanced = np.full((6, 6), 0.97)
    np.fill_diagonal(balanced, accuracies)
    balanced[:, 5] = 0.55
    balanced[2, 0] = 0.5  # The score prefers it for the first task: reuse is worse there.
    scores = np.zeros((6, 6))
    scores[2, 0] = 1
    found = judge_advice(own, balanced, scores)
    # Of the first task the others say 0.60 to 0.95, of the last 0.91 to 0.95.
    assert (found.better, found.train, found.train_right) == (2, 2, 2)
    assert (found.reuse, found.reuse_right, found.unsure) == (4, 4, 0)


def test_names_of_modules_are_unique_and_allowed() -> None:
    tasks = [
        parse_task("T-shirt/top, Trouser"),
        parse_task("a-b, c"),
        parse_task("a, b-c"),
        parse_task("ä, ö"),
        parse_task(f"{'x' * 80}, {'y' * 80}"),
    ]
    names = names_of("study", tasks)
    assert names[0] == "t-shirt-top-trouser"
    assert len(set(names)) == 5
    for name in names:
        assert TypeAdapter(Name).validate_python(f"study.{name}")


def test_the_examples_are_studies() -> None:
    assert len(read_spec(EXAMPLES / "study_digits.yaml", StudySpec).tasks or ()) == 4
    for name in ("study_fashion.yaml", "study_shelf.yaml"):
        assert read_spec(EXAMPLES / name, StudySpec)
    paper = read_spec(EXAMPLES / "study_cifar10.yaml", StudySpec)
    assert paper == StudySpec(name=paper.name, dataset=DatasetSpec(name="cifar10"))
