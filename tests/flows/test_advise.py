"""`modkernel advise` on real digits: related before unrelated, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from modkernel.data import describe_dataset
from modkernel.registry import Registry
from modkernel.spec import BackboneSpec, DatasetSpec, HiddenSpec, NetworkSpec, Recipe
from tests.flows.helpers.commands import Done, run_here
from tests.flows.helpers.specs import RELU, tiny
from tests.flows.helpers.trained import store_modules
from tests.modkernel.helpers.data_made import npz


def advise(*arguments: str) -> Done:
    """`modkernel advise` with these arguments."""
    return run_here("advise", *arguments)


def train(registry: Registry, name: str, *classes: str, epochs: int = 15) -> str:
    """A hidden module that tells these digits apart; its id."""
    recipe = Recipe(epochs=epochs, batch_size=64, learning_rate=0.05)
    spec = NetworkSpec(
        name=name,
        dataset=DatasetSpec(classes=classes),
        backbone=BackboneSpec(name="mlp", width=16, depth=1),
        hidden=(HiddenSpec(kernel=RELU, recipe=recipe),),
        output=None,
    )
    return store_modules(registry, spec)[0].id


def test_a_module_of_a_related_task_ranks_above_one_of_an_unrelated_task(
    registry: Registry,
) -> None:
    related = train(registry, "related", "3", "5", "8", "9")
    unrelated = train(registry, "unrelated", "0", "1")
    own = train(registry, "own", "3", "8")
    assert registry.moments.of(registry.modules.resolve(related)) != (), (
        "measured as it was trained"
    )
    asked = ("--dataset", "digits", "--classes", "3, 8")
    before = json.loads(advise(*asked, "--stored-only", "--json").out)
    assert before["ranked"] == []
    assert {one["module"]["id"] for one in before["left_out"]} == {related, unrelated, own}
    assert {one["reason"] for one in before["left_out"]} == {"moments"}
    done = advise(*asked, "--json")
    assert done.code == 0
    advice = json.loads(done.out)
    assert (advice["left_out"], advice["task"]["groups"]) == ([], [["3", ["3"]], ["8", ["8"]]])
    order = [one["module"]["id"] for one in advice["ranked"]]
    assert order.index(related) < order.index(unrelated)
    assert order.index(own) < order.index(unrelated)
    by_id = {one["module"]["id"]: one for one in advice["ranked"]}
    assert by_id[related]["accuracy"] > by_id[unrelated]["accuracy"] > 0.5
    assert [one["own"] for one in advice["ranked"]] == [one == own for one in order]
    assert "related.hidden-1" in done.err, "progress"
    again = advise(*asked, "--stored-only", "--json")
    assert json.loads(again.out) == advice
    grouped = advise("--dataset", "digits", "--classes", "low=0+1+2, high=7+8", "--top", "2")
    assert grouped.code == 0
    assert "low (0, 1, 2), high (7, 8)" in grouped.out
    assert "1 more are ranked below" in grouped.out
    assert "--dataset digits --classes 'low=0+1+2, high=7+8'" in grouped.out
    table = advise(*asked).out
    best = registry.modules.resolve(order[0])
    assert "trained on this task" in table
    assert f"Next: modkernel compose {best.name}/{best.version} --dataset digits" in table
    assert f"{100 * advice['ranked'][0]['accuracy']:.2f} %" in table
    for file in registry.settings.features_dir.iterdir():
        file.unlink()
    gone = advise("--dataset", "digits", "--together", "2", "--stored-only")
    assert gone.code == 1
    assert best.name in gone.out, "what can be ranked is"
    assert "no module" in gone.err.lower()
    joined = advise("--dataset", "digits", "--together", "2", "--json")
    first, second = json.loads(joined.out)["together"]["steps"]
    assert first["module"]["id"] != second["module"]["id"]
    assert second["brings"] > 2
    shown = advise("--dataset", "digits", "--together", "2", "--stored-only").out
    names = " ".join(
        f"{one['module']['name']}/{one['module']['version']}" for one in (first, second)
    )
    assert f"Next: modkernel compose {names} --name joined-0-1-2" in shown
    assert "--method ridge --dataset digits" in shown
    assert "Chosen from 3 modules in" in shown
    assert "Whether to train a new module: too few evaluations to say (0 of" in shown
    assert advice["new"]["verdict"] == "unsure"


def test_who_is_left_out_is_counted_by_reason(registry: Registry) -> None:
    train(registry, "one", "0", "1", epochs=1)
    train(registry, "two", "0", "2", epochs=1)
    done = advise("--dataset", "digits", "--image-size", "16", "--stored-only")
    assert done.code == 0
    assert "No stored module can be ranked for this task." in done.out
    assert "Left out: 2 modules made for other examples. Module " in done.out
    assert "--image-size 8 --channels 1 makes images so" in done.out
    done = advise("--dataset", "digits", "--stored-only")
    assert "Left out: 2 modules not measured on these data." in done.out


def test_what_cannot_be_asked_is_one_sentence(registry: Registry) -> None:
    for arguments, sentence in (
        ((), "give --dataset NAME, or --data FOLDER"),
        (("--image-size", "8"), "give --dataset NAME, or --data FOLDER"),
        (("--dataset", "numbers"), "Unknown data set 'numbers'"),
        (("--dataset", "digits", "--score", "best"), "Unknown score 'best': use one of logme"),
        (("--dataset", "digits", "--score", "leep"), "'leep' is not computed from class moments"),
        (("--dataset", "digits", "--classes", "3"), "at least two sides"),
        (("--dataset", "digits", "--classes", "3, cat"), "names class 'cat'"),
        (("--dataset", "digits", "--classes", "a=1+2, b=2+3"), "'2' is named more than once"),
        (("--dataset", "digits", "--classes", "1+2, 3"), "write 'NAME=1+2'"),
        (("--dataset", "digits", "--channels", "2"), "channels"),
    ):
        done = advise(*arguments)
        assert (done.code, done.out) == (1, "")
        assert sentence in done.err
        assert done.err.startswith("modkernel: ")
        assert len(done.err.splitlines()) == 1, done.err


def test_accuracy_comes_back_and_why_there_is_none_is_said(registry: Registry) -> None:
    train(registry, "one", "0", "1", epochs=1)
    asked = ("--dataset", "digits", "--classes", "1, 2")
    first = advise(*asked).out
    assert "expected accuracy" in first
    assert "trained on some of these" in first
    for file in registry.settings.features_dir.iterdir():
        file.unlink()
    stored = advise(*asked, "--stored-only").out
    assert "expected accuracy" not in stored.splitlines()[1]
    assert "Without an expected accuracy: 1 module. The measured features of" in stored
    assert advise(*asked).out == first


def test_a_score_of_held_out_examples_comes_back_on_a_small_set(
    registry: Registry, tmp_path: Path
) -> None:
    digits = load_digits()
    rows = np.concatenate([np.flatnonzero(digits.target == c)[:n] for c, n in ((3, 60), (8, 8))])
    path = npz(tmp_path / "rare.npz", x=digits.data[rows].astype(np.float32), y=digits.target[rows])
    rare = DatasetSpec(name="arrays", path=str(path))
    assert describe_dataset(rare, registry.settings.places).n_borrowed
    store_modules(registry, tiny("rare", epochs=(1,)).changed(dataset=rare, output=None))
    asked = ("--dataset", "arrays", "--data", str(path), "--score", "ridge", "--json")
    first = json.loads(advise(*asked).out)
    assert [one["module"]["name"] for one in first["ranked"]] == ["rare.hidden-1"]
    for file in registry.settings.features_dir.iterdir():
        file.unlink()
    (left_out,) = json.loads(advise(*asked, "--stored-only").out)["left_out"]
    assert left_out["reason"] == "features"
    assert json.loads(advise(*asked).out) == first


def test_why_a_module_could_not_be_measured_is_said(registry: Registry) -> None:
    record = registry.modules.resolve(train(registry, "one", "0", "1", epochs=1))
    stored = registry.modules.fetch(record)
    client = registry.backends.client
    kept = client.get_logged_model(record.model_id or "").artifact_location
    for folder in (stored.folder, Path(kept.removeprefix("file://"))):
        (folder / "weights.safetensors").write_bytes(b"altered")
    done = advise("--dataset", "digits", "--json")
    (left_out,) = json.loads(done.out)["left_out"]
    assert left_out["reason"] == "moments"
    assert "weights.safetensors" in left_out["message"]
    table = advise("--dataset", "digits").out
    assert "not measured on these data." in table
    assert "weights.safetensors" in table
    assert "computes them" not in table


def test_wrong_usage(registry: Registry) -> None:
    assert advise("--dataset", "digits", "--top", "0").code == 2


def test_an_empty_registry_says_what_to_do(registry: Registry) -> None:
    done = advise("--dataset", "digits")
    assert done.code == 0
    assert "Next: train one, such as 'modkernel train SPEC.yaml'." in done.out
