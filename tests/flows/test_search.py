"""The module search on digits: who competes, who wins, what it costs, what is reused and told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.progress import Progress

from modkernel.data import DataPlaces, load_dataset
from modkernel.errors import (
    ChildError,
    CutError,
    DataError,
    InterfaceError,
    LabelBudgetError,
    MomentsError,
    SettingsError,
    SpecError,
    TrainingError,
    UnknownNameError,
)
from modkernel.flows.cli._progress import _Bars
from modkernel.flows.deployments.forms.search import SearchForm
from modkernel.flows.plans import datasets
from modkernel.flows.plans.steps import Below
from modkernel.flows.runtime.events import Event, Note, Planned, StateChanged, watch
from modkernel.flows.search.plan import plan_search
from modkernel.flows.search.report import columns_of
from modkernel.flows.search.spec import Candidate, SearchSpec, Stage
from modkernel.flows.search_modules import search_modules
from modkernel.flows.specs.read import read_spec
from modkernel.flows.tasks import train
from modkernel.flows.train_module import train_module
from modkernel.modules.network import assemble
from modkernel.registry import Registry
from modkernel.reuse.scores import reusability
from modkernel.spec import BackboneSpec, DatasetSpec, KernelSpec, OutputSpec, Recipe
from tests.flows.helpers.specs import hidden
from tests.flows.test_flows import markdown
from tests.modkernel.helpers.data_made import picture

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def candidate(epochs: int = 1, **fields: Any) -> Candidate:
    return Candidate(**(hidden(epochs).model_dump() | fields))


def exact(epochs: int = 1, **fields: Any) -> Candidate:
    """One whose features are those that are computed by hand, on every machine."""
    recipe = hidden(epochs).recipe.changed(precision="float32")
    return candidate(epochs, **fields).changed(recipe=recipe)


def search(*stages: tuple[Candidate, ...], **fields: Any) -> SearchSpec:
    return SearchSpec(
        name="found",
        backbone=BackboneSpec(name="mlp", width=16, depth=len(stages)),
        stages=tuple(Stage(candidates=stage) for stage in stages),
        output=OutputSpec(method="ridge", labels_per_class=1, draws=3),
        **fields,
    )


def counted(events: list[Event]) -> tuple[float, float | None]:
    """How far the bar over all modules is on a terminal after events, and its whole length."""
    bars = Progress(disable=True)
    shown = _Bars(bars)
    for event in events:
        shown(event)
    (whole,) = (task for task in bars.tasks if task.description == "modules")
    return whole.completed, whole.total


def by_hand(registry: Registry, module_id: str, dataset: DatasetSpec) -> list[float]:
    """Accuracy, balanced accuracy and that of the worst class, on the validation examples.

    Of a ridge classifier on the training examples' φ.
    """
    data = load_dataset(
        dataset, DataPlaces(registry.settings.data_root, registry.settings.cache_dir)
    )
    chain = registry.modules.chain(registry.modules.resolve(module_id))
    network = assemble([registry.modules.fetch(record) for record in chain]).eval()

    def phi(split: Any) -> torch.Tensor:
        rows = split.examples.batch(torch.arange(len(split)))
        with torch.no_grad():
            values = network.features(rows).relu().double().flatten(1)
        return values / values.norm(dim=1, keepdim=True).clamp_min(1e-12)

    x, labels = phi(data.train), data.train.labels
    assert labels is not None
    targets = torch.nn.functional.one_hot(labels).double()
    mean, middle = x.mean(0), targets.mean(0)
    gram = (x - mean).T @ (x - mean) + min(0.1, 1e-3 * len(x)) * torch.eye(
        x.shape[1], dtype=torch.float64
    )
    weight = torch.linalg.solve(gram, (x - mean).T @ (targets - middle))
    guess = ((phi(data.validation) - mean) @ weight + middle).argmax(1)
    right, answers = (guess == data.validation.labels).double(), data.validation.labels
    assert answers is not None
    shares = [float(right[answers == number].mean()) for number in answers.unique()]
    return [float(right.mean()), sum(shares) / len(shares), min(shares)]


def test_the_best_candidates_of_each_stage_make_the_network_and_a_second_call_trains_nothing(
    registry: Registry,
) -> None:
    spec = search(
        (exact(), exact(8, width=64)),
        (exact(), exact(4, width=48)),
    )
    events: list[Event] = []
    with watch(events.append):
        first = search_modules(spec)
    assert (first.trained_modules, first.reused_modules) == (5, 0)
    assert [(row.stage, row.candidate) for row in first.candidates] == [
        (1, 1), (1, 2), (2, 1), (2, 2),
    ]  # fmt: skip
    for stage in (1, 2):
        rows = [row for row in first.candidates if row.stage == stage]
        best = max(rows, key=lambda row: row.score or 0)
        assert [row.candidate for row in rows if row.kept] == [best.candidate]
        assert best.module is not None
        assert best.module.id == first.network.modules[stage - 1].id
    one, two = first.network.modules[0].id, first.candidates[-1].module
    assert {row.stands_on for row in first.candidates} == {None, one}
    assert two is not None
    assert (two.name, registry.modules.resolve(two.id).spec.interface.takes) == (
        "found.hidden-2",
        (64,),
    )
    for row in first.candidates:
        assert row.module is not None
        assert row.worst_class is not None
        found = [row.score, row.balanced_accuracy, row.worst_class.accuracy]
        assert found == pytest.approx(by_hand(registry, row.module.id, spec.dataset), abs=1e-6)
    assert registry.networks.resolve("found").id == first.network.id
    assert first.network.evaluation is not None
    assert first.network.evaluation.accuracy_all_labels > 0.5
    assert first.networks == 4
    assert {cell.partition("/")[0] for cell in columns_of(first)["module"]} == {
        "hidden-1",
        "hidden-2",
    }
    of_another = columns_of(first.changed(name="later"))["module"]
    assert {cell.partition(".")[0] for cell in of_another} == {"found"}
    assert first.training_seconds == pytest.approx(
        sum(row.module.seconds for row in first.candidates if row.module is not None)
    )

    assert isinstance(events[0], Planned)
    assert len(events[0].modules) == 5
    assert counted(events) == (5, 5)
    told = [event.text for event in events if isinstance(event, Note)]
    assert "the next stage builds on" in told[-2]
    assert "the network is made of" in told[-1]
    labels = {event.module for event in events if isinstance(event, StateChanged)}
    assert labels == {
        "found.hidden-1 (1)", "found.hidden-1 (2)",
        "found.hidden-2 (2.1)", "found.hidden-2 (2.2)", "found.output",
    }  # fmt: skip
    page = markdown("search-found")
    assert "data:image/png;base64" in page
    assert "| 1 | epochs 8, width 64 | the data |" in page
    client = registry.backends.client
    run = client.get_run(first.network.run_id or "")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["search_networks"] == 4
    files = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert "search.json" in files
    figures = {file.path for file in client.list_artifacts(run.info.run_id, "figures")}
    assert "figures/search.png" in figures

    runs = len(client.search_runs([run.info.experiment_id]))
    second = search_modules(spec)
    assert (second.trained_modules, second.reused_modules) == (0, 5)
    assert second.network.id == first.network.id
    assert [row.score for row in second.candidates] == [row.score for row in first.candidates]
    assert len(client.search_runs([run.info.experiment_id])) == runs


@pytest.mark.long
def test_a_beam_keeps_several_and_any_score_of_moments_decides(registry: Registry) -> None:
    spec = search(
        (candidate(), candidate(3), candidate(width=2)),
        (candidate(), candidate(2)),
        beam=2,
        score="logme",
    )
    result = search_modules(spec)
    stage1 = [row for row in result.candidates if row.stage == 1]
    stage2 = [row for row in result.candidates if row.stage == 2]
    kept = {row.module.id for row in stage1 if row.kept and row.module is not None}
    assert len(kept) == 2
    assert {row.stands_on for row in stage2} == kept
    assert len(stage2) == 4
    assert sum(row.kept for row in stage2) == 1
    info = datasets.describe(registry, spec.dataset)
    for row in result.candidates:
        assert row.module is not None
        moments = registry.moments.load(registry.modules.resolve(row.module.id), info.fingerprint)
        assert row.score == reusability(moments.validation, score="logme")
    (winner,) = (row for row in stage2 if row.kept)
    assert winner.score == max(row.score or 0 for row in stage2)
    assert winner.stands_on == result.network.modules[0].id


@pytest.mark.long
def test_modules_of_other_flows_are_reused_and_so_are_those_of_a_narrower_search(
    registry: Registry,
) -> None:
    first = train_module("alone", hidden(until="linear1"), backbone=BackboneSpec(width=16, depth=2))
    result = search_modules(search((candidate(),), (candidate(),)))
    assert result.network.modules[0].id == first.id
    assert result.reused_modules == 1
    wider = search((candidate(),), (candidate(), candidate(2)))
    assert search_modules(wider).trained_modules <= 2  # The candidate; its output if it wins.


def test_a_candidate_that_diverges_is_reported_and_left_out(registry: Registry) -> None:
    recipe = Recipe(epochs=1, learning_rate=1e30, schedule="constant")
    wild = candidate().changed(recipe=recipe)
    events: list[Event] = []
    with watch(events.append):
        result = search_modules(search((candidate(), wild)))
    assert counted(events) == (3, 3)
    good, bad = result.candidates
    assert good.kept
    assert (bad.kept, bad.score, bad.module) == (False, None, None)
    assert bad.error is not None
    assert "learning_rate" in bad.error
    assert "failed |" in markdown("search-found")
    with pytest.raises(TrainingError, match="All candidates of stage 1 failed"):
        search_modules(search((wild,)))


@pytest.mark.long
def test_a_candidate_whose_process_dies_is_left_out_unless_all_do(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_in_child = train.training
    dying = ["(2)"]

    def train_or_die(run: Any, job: Any, label: str, *rest: Any) -> Any:
        if label.endswith(tuple(dying)):
            raise ChildError(f"no memory for {label}")
        return train_in_child(run, job, label, *rest)

    monkeypatch.setattr(train, "training", train_or_die)
    spec = search((candidate(), candidate(width=64)))
    good, bad = search_modules(spec).candidates
    assert good.kept
    assert (bad.module, bad.error) == (None, "no memory for found.hidden-1 (2)")
    dying[:] = ["(1)", "(2)"]
    both = r"(?s)as the backbone: no memory .*\(1\).*width 8: no memory .*\(2\)"
    with pytest.raises(TrainingError, match=both):
        search_modules(search((candidate(2), candidate(2, width=8))))
    dying.clear()
    assert search_modules(spec).trained_modules <= 2  # It is tried again, and may win.
    assert len(registry.modules.find(name="found.hidden-1")) == 2


def test_measured_features_must_find_room_before_anything_is_trained(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = search((candidate(), candidate(width=64)))

    def plan(limit: int, **changes: Any) -> None:
        settings = registry.settings.model_copy(update={"feature_cache_bytes": limit})
        monkeypatch.setattr(registry, "settings", settings)
        plan_search(registry, spec.model_copy(update=changes))

    plan(2**20)
    with pytest.raises(SettingsError, match=r"Candidate 1 of stage 1: .*at least \d+"):
        plan(0)
    with pytest.raises(SettingsError, match=r"Candidate 2 of stage 1: .*FEATURE_CACHE_BYTES"):
        plan(200_000)
    plan(0, score="logme")


def test_a_search_is_refused_before_it_trains(registry: Registry, tmp_path: Path) -> None:
    plain = search((candidate(),), (candidate(),))
    ends = BackboneSpec(name="mlp", width=16, depth=3)
    unknown = candidate(kernel=KernelSpec(name="no"))
    wrong: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (UnknownNameError, "use one of accuracy, logme", {"score": "luck"}),
        (UnknownNameError, "score of a search 'ridge'", {"score": "ridge"}),
        (
            UnknownNameError,
            "kernel 'no'",
            {"stages": (Stage(candidates=(unknown,)),)},
        ),
        (LabelBudgetError, "5000", {"output": OutputSpec(labels_per_class=5000)}),
        (
            InterfaceError,
            r"Candidate 2 of stage 1: .*relu_avgpool",
            {"stages": (Stage(candidates=(candidate(), candidate(kernel=KernelSpec()))),)},
        ),
        (
            CutError,
            r"Candidate 1 of stage 2: .*linear2",
            {
                "backbone": ends,
                "stages": (
                    Stage(candidates=(candidate(until="linear1"), candidate(until="linear2"))),
                    Stage(candidates=(candidate(until="linear2"),)),
                    Stage(candidates=(candidate(),)),
                ),
            },
        ),
        (
            CutError,
            r"Candidate 1 of stage 2: .*linear3",
            {
                "backbone": ends,
                "stages": (
                    Stage(candidates=(candidate(until="linear1"),)),
                    Stage(candidates=(candidate(until="linear2"),)),
                ),
            },
        ),
        (
            MomentsError,
            "Candidate 1 of stage 2: ",
            {"stages": (plain.stages[0], Stage(candidates=(candidate(width=4000),)))},
        ),
        (
            SpecError,
            "Candidates 1 and 3 of stage 1 are the same module",
            {"stages": (Stage(candidates=(candidate(), candidate(2), candidate(width=16))),)},
        ),
        (
            SpecError,
            "Candidates 1 and 2 of stage 2 are the same module",
            {"stages": (plain.stages[0], Stage(candidates=(candidate(until="linear2"),) * 2))},
        ),
        (CutError, "2 hidden modules cannot", {"backbone": BackboneSpec(name="mlp", depth=1)}),
    ]
    for error, message, change in wrong:
        with pytest.raises(error, match=message):
            plan_search(registry, plain.model_copy(update=change))  # With which the flow begins.
    image = tmp_path / "pictures"
    image.mkdir()
    for number in range(4):
        picture(number).save(image / f"{number}.png")
    unlabelled = DatasetSpec(name="image_folder", path=str(image))
    with pytest.raises(DataError, match="no class labels"):
        search_modules(plain.changed(dataset=unlabelled))
    assert not registry.modules.find()


def test_widths_and_ends_of_different_candidates_fit(registry: Registry) -> None:
    spec = search(
        (candidate(until="linear1"), candidate(until="linear2", width=8)),
        (candidate(), candidate(width=4)),
    ).changed(backbone=BackboneSpec(name="mlp", width=16, depth=3))
    plan = plan_search(registry, spec)
    first = plan.module(0, spec.stages[0].candidates[1], Below.of_data(plan.info))
    second = plan.module(1, spec.stages[1].candidates[1], Below.of_module("0" * 64, first))
    assert (first.blocks, first.interface.gives) == (("linear1", "linear2"), (8,))
    assert (second.blocks, second.interface.takes, second.interface.gives) == (
        ("linear3",),
        (8,),
        (4,),
    )
    assert second.hidden is not None
    assert "width" not in second.canonical_json().replace('"width":4', "")


def test_what_the_digits_example_and_the_form_ask_for_can_be(registry: Registry) -> None:
    filled: SearchSpec = SearchForm().parameters()["spec"]
    for spec in (read_spec(EXAMPLES / "search_digits.yaml", SearchSpec), filled):
        assert plan_search(registry, spec).ends[-1] == f"linear{spec.backbone.depth}"
