"""The short forms: what they ask for, what they make of it, and which choices they offer."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modkernel.errors import SpecError, StoreError
from modkernel.flows.deployments.forms import follow
from modkernel.flows.deployments.forms.modules import (
    compose_network,
    measure_modules,
    promote_module,
    stitch_modules,
    train_module,
)
from modkernel.flows.deployments.forms.network import retrain_network, train_baseline, train_network
from modkernel.flows.deployments.forms.schema import form_schema
from modkernel.flows.deployments.forms.search import search_modules
from modkernel.flows.deployments.forms.study import transfer_study
from modkernel.flows.deployments.serve import deployments
from modkernel.flows.runtime.form_flow import FormFlow
from modkernel.flows.search.spec import Candidate, SearchSpec, Stage
from modkernel.flows.study.spec import StudySpec
from modkernel.registry import StoredNames
from modkernel.spec import (
    BackboneSpec,
    DatasetSpec,
    HiddenSpec,
    KernelSpec,
    NetworkSpec,
    ObjectiveSpec,
    OutputSpec,
    Recipe,
)

FLOWS: tuple[FormFlow[..., Any], ...] = (
    train_network,
    train_module,
    compose_network,
    train_baseline,
    retrain_network,
    search_modules,
    transfer_study,
    measure_modules,
    stitch_modules,
    promote_module,
)
STORED = StoredNames(
    modules=("a.hidden-1@champion", "a.hidden-1", "a.hidden-1/1"),
    networks=("a",),
    stages=("1", "output"),
)
REQUIRED = {
    "compose-network": {"hidden": "a.hidden-1"},
    "promote-module": {"module": "a.hidden-1"},
    "stitch-modules": {"lower": "a.hidden-1", "upper": "a.hidden-1/1"},
    "retrain-network": {"network": "a"},
}
every_flow = pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: str(flow.name))


@every_flow
def test_a_form_has_few_fields_and_no_json_before_its_folded_part(
    flow: FormFlow[..., Any],
) -> None:
    assert flow.form is not None
    schema = form_schema(flow.form, STORED)
    *short, (last, advanced) = schema.properties.items()
    assert len(short) <= 10
    for name, field in short:
        assert field["type"] in {"string", "integer", "boolean", "array"}, name
        assert "anyOf" not in field, "tabs"
    # Folded: Prefect opens the kind that the default is of.
    assert (last, advanced["default"]) == ("advanced", None)
    assert advanced["anyOf"][0]["type"] == "null"


def test_every_form_offers_names_as_choices() -> None:
    free: dict[str, set[str]] = {}
    for flow in FLOWS:
        assert flow.form is not None
        for name, field in form_schema(flow.form, STORED).properties.items():
            target = field.get("items", field)
            if target.get("type") == "string" and "enum" not in target:
                free.setdefault(name, set()).add(flow.name)
    assert free.keys() == {"name", "path", "labels", "tasks", "alias"}


@every_flow
def test_a_form_left_as_it_is_makes_the_flows_parameters(flow: FormFlow[..., Any]) -> None:
    made = flow.validate_parameters(REQUIRED.get(flow.name, {}))
    # What the schedule dialog saves of a form that nobody filled in.
    blank = {"advanced": None, "path": None, "labels_per_class": None, "name": None}
    assert flow.form is not None
    blank = {name: value for name, value in blank.items() if name in flow.form.model_fields}
    assert flow.validate_parameters({**REQUIRED.get(flow.name, {}), **blank}) == made


def test_a_network_form_makes_the_spec_that_was_meant() -> None:
    filled = {
        "name": "mine",
        "dataset": "image_folder",
        "path": "/data/pictures",
        "backbone": "resnet18",
        "hidden_modules": 3,
        "epochs": 7,
        "kernel": "relu",
        "objective": "alignment",
        "labels_per_class": 5,
        "method": "ridge",
        "advanced": {
            "dataset": {"image_size": 32, "classes": ["cat", "dog"]},
            "backbone": {"width": 16},
            "objective": {"include_diagonal": True},
            "training": {"optimizer": "adam", "learning_rate": 0.01},
            "tail": 2,
            "output": {"draws": 20},
            "seed": 4,
        },
    }
    module = HiddenSpec(
        kernel=KernelSpec(name="relu"),
        objective=ObjectiveSpec(name="alignment", include_diagonal=True),
        recipe=Recipe(epochs=7, optimizer="adam", learning_rate=0.01),
        tail=2,
    )
    meant = NetworkSpec(
        name="mine",
        dataset=DatasetSpec(
            name="image_folder", path="/data/pictures", image_size=32, classes=("cat", "dog")
        ),
        backbone=BackboneSpec(name="resnet18", width=16),
        hidden=(module, module, module),
        output=OutputSpec(method="ridge", labels_per_class=5, draws=20),
        seed=4,
    )
    assert train_network.validate_parameters(filled) == {"spec": meant}
    assert train_network.validate_parameters({"spec": meant.model_dump(mode="json")}) == {
        "spec": meant
    }


def test_a_small_form_is_a_small_spec() -> None:
    meant = NetworkSpec(
        name="digits",
        backbone=BackboneSpec(depth=4),
        hidden=(HiddenSpec(recipe=Recipe(epochs=30)),) * 4,
    )
    assert train_network.validate_parameters({"hidden_modules": 4}) == {"spec": meant}


def test_the_other_forms_make_what_was_meant() -> None:
    made = train_module.validate_parameters(
        {"name": "b", "upstream": "a.hidden-1", "advanced": {"until": "layer2"}}
    )
    hidden = HiddenSpec(until="layer2", recipe=Recipe(epochs=30))
    assert made == {
        **{"name": "b", "upstream": ("a.hidden-1",), "hidden": hidden, "seed": 0},
        **{"dataset": None, "backbone": None, "pairs": None, "weights": None},
    }
    made = compose_network.validate_parameters(
        {"hidden": "a.hidden-1@champion", "dataset": "mnist", "method": "hinge"}
    )
    meant = {
        **{"name": "digits-composed", "hidden": ("a.hidden-1@champion",), "seed": 0},
        **{"dataset": DatasetSpec(name="mnist"), "output": OutputSpec(method="hinge")},
        **{"labels": None, "follow": False, "weights": None},
    }
    assert made == meant
    several = {"beside": ["b.hidden-1", "c.hidden-1"], "advanced": {"weights": [1, 2, 0.5]}}
    made = compose_network.validate_parameters(
        {"hidden": "a.hidden-1@champion", "dataset": "mnist", "method": "hinge", **several}
    )
    references = ("a.hidden-1@champion", "b.hidden-1", "c.hidden-1")
    assert made == meant | {"hidden": references, "weights": (1.0, 2.0, 0.5)}
    made = retrain_network.validate_parameters(
        {"network": "a", "stage": "2", "advanced": {"hidden": [{"projection": 3}]}}
    )
    assert (made["network"], made["stage"]) == ("a", "2")
    assert made["hidden"] == (HiddenSpec(projection=3),)
    assert {made[name] for name in ("output", "backbone", "dataset", "seed", "name")} == {None}

    recipe, kernel = Recipe(epochs=5), KernelSpec(name="auto")
    stage = Stage(
        candidates=tuple(
            Candidate(objective=ObjectiveSpec(name=name), recipe=recipe, kernel=kernel, width=width)
            for width in (16, 32)
            for name in ("alignment", "contrastive")
        )
    )
    made = search_modules.validate_parameters(
        {"widths": [16, 32], "objectives": ["alignment", "contrastive"], "score": "logme"}
    )
    assert made["spec"] == SearchSpec(name="digits-search", stages=(stage, stage), score="logme")

    made = transfer_study.validate_parameters(
        {"name": "s", "tasks": ["1, 7", "2, 3", "4, 5"], "advanced": {"folder": "/out"}}
    )
    meant = StudySpec(
        name="s",
        tasks=("1, 7", "2, 3", "4, 5"),
        backbone=BackboneSpec(),
        hidden=HiddenSpec(recipe=Recipe(epochs=3)),
    )
    assert made == {"spec": meant, "output": "/out"}
    made = measure_modules.validate_parameters({"modules": ["a.hidden-1"]})
    assert made == {"dataset": DatasetSpec(), "modules": ("a.hidden-1",), "features": False}
    made = train_baseline.validate_parameters({"seed": 3})
    assert (made["spec"].seed, made["spec"].hidden[-1].recipe) == (3, Recipe(epochs=30))
    # The same fields describe the same network.
    fields = {"hidden_modules": 4, "kernel": "tanh"}
    whole, parts = (
        flow.validate_parameters(fields)["spec"] for flow in (train_baseline, train_network)
    )
    assert whole.backbone == parts.backbone
    assert whole.hidden[-1].kernel == parts.hidden[-1].kernel


@pytest.mark.parametrize(
    ("flow", "values", "told"),
    [
        (train_network, {"epochs": 0}, r"^'epochs' is 0: .*greater than or equal to 1\.$"),
        (train_network, {"dataset": "digit"}, r"^'dataset' is 'digit': input should be 'digits', "),
        (train_network, {"epoch": 3}, r"^unknown field 'epoch' \(use one of name, dataset"),
        (
            train_network,
            {"advanced": {"training": {"momentum": 2}}},
            r"^'advanced\.training\.momentum' is 2: ",
        ),
        (
            train_network,
            {"advanced": {"training": {"schedule": "multistep"}}},
            r"^advanced\.training: .*milestones go with schedule 'multistep'",
        ),
        (train_module, {"path": "/data"}, r"^'path' tells more of a data set: choose the 'datase"),
        (compose_network, {}, r"^'hidden' is missing\.$"),
        (
            train_network,
            {"spec": {"nam": "a"}},
            r"^'spec\.name' is missing; unknown field 'spec\.n",
        ),
    ],
)
def test_a_wrong_value_is_told_in_one_line(
    flow: FormFlow[..., Any], values: dict[str, Any], told: str
) -> None:
    with pytest.raises(SpecError, match=told) as raised:
        flow.validate_parameters(values)
    assert "\n" not in str(raised.value)


def test_choices_are_what_is_stored_or_any_text_where_that_is_not_known() -> None:
    assert compose_network.form is not None
    known = form_schema(compose_network.form, STORED).properties["hidden"]
    assert known["enum"] == list(STORED.modules)
    assert known["default"] == STORED.modules[0]
    unknown = form_schema(compose_network.form, None).properties["hidden"]
    assert "enum" not in unknown
    assert "default" not in unknown
    nothing = StoredNames(modules=(), networks=(), stages=("output",))
    empty = form_schema(compose_network.form, nothing).properties["hidden"]
    assert empty["enum"] == []
    assert "Nothing is stored yet" in empty["description"]


class Away:
    """A deployment whose server does not answer at first."""

    run = None
    tries = 0

    async def refresh(self) -> None:
        self.tries += 1
        if self.tries < 3:
            raise ConnectionError("nobody there")


def test_an_outage_only_delays_the_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "LOOK_SECONDS", 0.01)
    tries = iter(range(100_000))
    registry = SimpleNamespace(names=lambda: STORED, promotions=SimpleNamespace(sync=lambda: None))

    def open_registry() -> Any:
        if next(tries) < 2:
            raise StoreError("away")
        return registry

    monkeypatch.setattr(follow, "open_registry", open_registry)
    said: list[str] = []
    served = Away()
    told: list[tuple[int, object]] = []

    def tell_moves(_: object, offered: object) -> tuple[()]:
        told.append((served.tries, offered))
        return ()

    monkeypatch.setattr(follow, "tell_moves", tell_moves)
    stored = follow.StoredNow(said.append)
    assert stored.first() == STORED

    async def a_while() -> None:
        with suppress(TimeoutError):
            following = follow.follow(cast(Any, [served]), stored, None, said.append)
            await asyncio.wait_for(following, 1)

    asyncio.run(a_while())
    stored.stop()
    assert served.tries == 3, "until it answers, and no more while nothing changes"
    assert set(told) == {(3, STORED.modules)}, "a run of an alias that is not offered is refused"
    assert [line.partition(":")[0] for line in said] == [
        "The choices in the forms stay as they are",
        "Cannot bring the forms up to date, and goes on trying",
    ]


def test_every_deployment_but_maintenance_has_a_form() -> None:
    by_name = {made.name: made.run for made in deployments(STORED)}
    assert by_name.keys() == {flow.name for flow in FLOWS} | {"maintenance"}
    for flow in FLOWS:
        assert by_name[flow.name] is flow


@pytest.mark.parametrize(("took", "rest"), [(0.0, 15.0), (1.0, 14.0), (7.0, 28.0), (60.0, 45.0)])
def test_a_server_that_answers_slowly_is_asked_less_often(took: float, rest: float) -> None:
    assert follow.rest_of(took) == rest
