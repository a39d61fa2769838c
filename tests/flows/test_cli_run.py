"""The commands that run flows, as a person runs them: processes, a fresh home, real training."""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from modkernel.flows.servers.prefect_password import basic_authorization, prefect_password
from modkernel.registry import Settings
from tests.flows.helpers.commands import SMALL, Done, Shell, environment, shell_in
from tests.flows.helpers.own_packages import own_folder, searched_first
from tests.flows.helpers.processes import ROOT, descendants, free_ports, processes_of
from tests.registry.helpers.servers import serving

IMPOSSIBLE = SMALL.replace("mlp", "perceptron")


@pytest.fixture(scope="module")
def home(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh home, but for Prefect's tables, which take longer than all else in it."""
    home = tmp_path_factory.mktemp("cli") / "home"
    shutil.copytree(template / "prefect", home / "prefect")
    return home


@pytest.fixture(scope="module")
def spec(home: Path) -> Path:
    path = home.parent / "small.yaml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="module")
def fresh(home: Path) -> Iterator[Shell]:
    """Runs commands in a fresh home, in a folder with packages of a user's own."""
    folder = own_folder(home.parent / "project")
    with shell_in(searched_first(environment(home)), folder) as run:
        yield run


@pytest.fixture(scope="module")
def demo(fresh: Shell) -> Done:
    """The demo, which is a new user's first command."""
    return fresh("demo", "--json")


@pytest.fixture(scope="module")
def modkernel(fresh: Shell, demo: Done) -> Shell:
    """Runs commands after the demo."""
    return fresh


@pytest.fixture(scope="module")
def after(modkernel: Shell, spec: Path) -> dict[str, Done]:
    """What each command gives after the demo."""
    impossible = spec.with_name("impossible.yaml")
    impossible.write_text(IMPOSSIBLE)
    commands: dict[str, tuple[str, ...]] = {
        "compose": (
            *("compose", "digits.hidden-1", "--name", "odd", "--classes", "1,3,5"),
            *("--labels-per-class", "2", "--draws", "3", "--method", "ridge", "--json"),
        ),
        "train-module": (*("train-module", str(spec), "--upstream", "digits.hidden-2", "--json"),),
        "baseline": ("baseline", str(spec), "--json"),
        "baseline again": ("baseline", str(spec)),
        "impossible": ("train", str(impossible)),
        "nobody": ("compose", "nobody"),
        "on output": ("compose", "digits.output"),
        "too many labels": ("compose", "digits.hidden-2", "--labels-per-class", "99999"),
        "no number": ("compose", "digits.hidden-2", "--labels-per-class", "many"),
        "bad name": ("compose", "digits.hidden-2", "--name", "Big Name"),
        "one class": ("compose", "digits.hidden-2", "--classes", "4"),
    }
    return {name: modkernel(*arguments) for name, arguments in commands.items()}


def test_the_demo_prints_one_object_and_meets_its_promise(demo: Done) -> None:
    result = demo.json
    assert result["labels"] == 10
    assert result["draws"] >= 20
    assert result["accuracy_mean"] >= 0.97
    assert result["accuracy_min"] <= result["accuracy_mean"] <= result["accuracy_max"]
    assert result["accuracy_all_labels"] >= 0.97
    assert (result["trained_modules"], result["reused_modules"]) == (4, 2)
    assert result["seconds"] > 0
    first, second = result["networks"]
    assert [module["reused"] for module in first["modules"]] == [False, False, False]
    assert [module["reused"] for module in second["modules"]] == [True, True, False]
    ids = [[module["id"] for module in network["modules"]] for network in (first, second)]
    assert ids[0][:2] == ids[1][:2]
    assert "digits.hidden-1: training" in demo.err


def test_its_temporary_prefect_server_asks_for_the_password(
    demo: Done, modkernel: Shell, home: Path
) -> None:
    """It lives as long as the process, as that of any command without a server does."""
    assert demo.code == 0
    (server,) = (
        pid for pid, line in processes_of(home).items() if line.endswith("prefect_server ")
    )
    assert server in descendants(modkernel.pid)
    port = re.search(r"PREFECT_SERVER_API_PORT=(\d+)", Path(f"/proc/{server}/environ").read_text())
    assert port is not None
    request = urllib.request.Request(
        f"http://127.0.0.1:{port[1]}/api/flow_runs/filter",
        b"{}",
        {"Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError, match="401") as caught:
        urllib.request.urlopen(request, timeout=60)
    caught.value.close()
    password = prefect_password(Settings(home=home))
    request.add_header("Authorization", basic_authorization(password))
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer), "the demo's runs"


@pytest.mark.long
def test_the_demo_again_retrains_nothing_and_says_so(demo: Done, modkernel: Shell) -> None:
    first, table = modkernel.several(("demo", "--json"), ("demo",))
    again = first.json
    assert (again["trained_modules"], again["reused_modules"]) == (0, 6)
    for name in ("accuracy", "accuracy_mean", "accuracy_min", "accuracy_all_labels"):
        assert again[name] == demo.json[name]
    assert [one["id"] for one in again["networks"]] == [one["id"] for one in demo.json["networks"]]
    assert table.code == 0
    assert "Nothing was retrained" in table.out
    assert "digits.hidden-2" in table.out


def test_compose_trains_only_an_output_module(demo: Done, after: dict[str, Done]) -> None:
    result = after["compose"].json
    assert result["name"] == "odd"
    assert (result["trained_modules"], result["reused_modules"]) == (1, 1)
    first = demo.json["networks"][0]["modules"][0]
    assert result["modules"][0]["id"] == first["id"]
    evaluation = result["evaluation"]
    assert (evaluation["labels"], evaluation["draws"]) == (6, 3)
    assert len(evaluation["confusion"]) == 3


def test_train_module_stands_on_the_stored_one(modkernel: Shell, after: dict[str, Done]) -> None:
    result = after["train-module"].json
    assert (result["name"], result["kind"], result["reused"]) == ("small.hidden-3", "hidden", False)
    shown = modkernel("modules", "show", result["id"], "--json").json
    assert len(shown["chain"]) == 3
    assert shown["spec"]["interface"]["upstream"] == shown["chain"][1]


def test_baseline_is_evaluated(after: dict[str, Done]) -> None:
    result = after["baseline"].json
    assert 0 < result["evaluation"]["accuracy"] <= 1
    assert result["train_seconds"] > 0
    told = after["baseline again"].out
    assert "end to end: reused in" in told
    assert f"run 'small.baseline' ({result['run_id']}) of experiment 'digits' in MLflow" in told
    assert "the same command shows it again without training." in told


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("impossible", "perceptron"),
        ("nobody", "nobody"),
        ("on output", "output module"),
        ("too many labels", "99999"),
        ("no number", "labels_per_class"),
        ("bad name", "--name"),
        ("one class", "two sides"),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(
    after: dict[str, Done], command: str, words: str
) -> None:
    done = after[command]
    assert done.code == 1
    assert done.out == ""
    lines = done.err.splitlines()
    assert len(lines) == 1, done.err
    assert lines[0].startswith("modkernel: ")
    assert words in lines[0]


def test_lists_show_what_was_stored(modkernel: Shell, after: dict[str, Done]) -> None:
    modules, networks, found, table, network, verify = modkernel.several(
        ("modules", "list", "--json"),
        ("networks", "list", "--json"),
        ("modules", "find", "--kind", "output", "--json"),
        ("modules", "show", "digits.hidden-2"),
        ("networks", "show", "digits"),
        ("verify", "--json"),
    )
    assert {module["name"] for module in modules.json} >= {
        "digits.hidden-1",
        "digits.hidden-2",
        "digits.output",
        "digits-composed.output",
        "odd.output",
    }
    assert {one["name"] for one in networks.json} == {"digits", "digits-composed", "odd"}
    assert {module["kind"] for module in found.json} == {"output"}
    assert "digits.hidden-1/1 → digits.hidden-2/1" in table.out
    assert "digits.output" in network.out
    assert verify.json == []


def test_predict_reads_images(home: Path, modkernel: Shell) -> None:
    digits = load_digits()
    images = []
    for index in range(12):
        path = home.parent / f"digit-{index}.png"
        scaled = np.round(digits.images[index] * 255 / 16).astype(np.uint8)
        Image.fromarray(scaled).save(path)
        images.append(str(path))
    broken = home.parent / "broken.png"
    broken.write_bytes(b"no image")
    predicted, table, failed, none = modkernel.several(
        ("predict", "digits", *images, "--json"),
        ("predict", "digits", images[0]),
        ("predict", "digits", str(broken), images[0], "missing.png", images[1], "--json"),
        ("predict", "digits", str(broken)),
    )
    right = [one["label"] == str(digits.target[index]) for index, one in enumerate(predicted.json)]
    assert sum(right) >= 11
    for one in predicted.json:
        assert one["probability"] == max(one["probabilities"].values())
        assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert "digit-0.png" in table.out
    assert failed.code == 1
    good = [(one["image"], one["label"]) for one in predicted.json[:2]]
    assert [(one["image"], one["label"]) for one in json.loads(failed.out)] == good
    assert "Cannot read 2 images: " in failed.err
    assert "broken.png: no image that Pillow knows; missing.png: No such file" in failed.err
    assert (none.code, none.out) == (1, "")
    assert "broken.png" in none.err


def test_predict_writes_a_row_an_example(home: Path, modkernel: Shell) -> None:
    digits = load_digits()
    scaled = np.round(digits.images * 255 / 16).astype(np.uint8)
    folder = home.parent / "pictures"
    (folder / "more").mkdir(parents=True)
    for index in range(300):  # More than are read at once.
        Image.fromarray(scaled[index]).save(folder / "more" / f"{index:03}.png")
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("")
    arrays = home.parent / "pictures.npz"
    np.savez(arrays, x=scaled[:300])
    csv_file, parquet_file = home.parent / "answers.csv", home.parent / "answers.parquet"
    none = home.parent / "none.csv"
    of_folder, of_arrays, summary, nothing, wrong, hidden = modkernel.several(
        ("predict", "digits", str(folder), "--output", str(csv_file)),
        ("predict", "digits.output/1", str(arrays), "--output", str(parquet_file)),
        ("predict", "digits", str(arrays), "--output", str(parquet_file), "--json"),
        ("predict", "digits", str(folder / "broken.png"), "--output", str(none)),
        ("predict", "digits", str(arrays), "--output", "answers.xlsx"),
        ("predict", "digits.hidden-1", str(arrays)),
    )
    assert (of_folder.code, of_arrays.code) == (1, 0), of_arrays.err
    assert f"{csv_file}: 300 predicted by digits" in of_folder.out
    assert "broken.png: no image that Pillow knows" in of_folder.err
    assert "1 file is not read" in of_folder.err
    table = pyarrow.csv.read_csv(csv_file)
    classes = [f"p_{digit}" for digit in range(10)]
    assert table.column_names == ["image", "label", "probability", "distance", *classes]
    names = [str(folder / "more" / f"{index:03}.png") for index in range(300)]
    assert table["image"].to_pylist() == names
    right = np.array(table["label"].to_pylist()) == digits.target[:300]
    assert right.mean() > 0.9
    assert np.median(table["distance"].to_numpy()) < 1
    same = pyarrow.parquet.read_table(parquet_file)
    assert same.column_names == table.column_names
    assert same["image"].to_pylist() == [f"{arrays}:{index}" for index in range(300)]
    assert list(map(int, same["label"].to_pylist())) == table["label"].to_pylist()
    for name in ("distance", *classes):
        np.testing.assert_allclose(same[name], table[name], rtol=1e-3, atol=1e-5)
    assert summary.json == {"file": str(parquet_file), "predicted": 300, "unreadable": 0}
    assert nothing.code == 1
    assert not none.exists()
    assert (wrong.code, hidden.code) == (2, 1)
    assert "no output module" in hidden.err


def test_a_network_and_a_module_are_exported(home: Path, modkernel: Shell) -> None:
    network, module = home.parent / "digits.safetensors", home.parent / "hidden.safetensors"
    whole, hidden = modkernel.several(
        ("export", "digits", str(network), "--to", "state-dict", "--json"),
        ("export", "digits.hidden-1/1", str(module), "--to", "state-dict", "--json"),
    )
    assert whole.json["classes"] == [str(digit) for digit in range(10)]
    assert (whole.json["of"], whole.json["examples"]) == ("digits", 32)
    assert whole.json["bytes"] == network.stat().st_size
    assert set(load_file(network)) > set(load_file(module))
    assert {"mean", "std", "fc.weight"} <= set(load_file(network))
    assert (hidden.json["classes"], hidden.json["output"]) == (None, "features")


def digit(home: Path, index: int) -> bytes:
    """A real digit as the bytes of a PNG file."""
    path = home.parent / f"served-{index}.png"
    scaled = np.round(load_digits().images[index] * 255 / 16).astype(np.uint8)
    Image.fromarray(scaled).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def pictures(home: Path, demo: Done) -> tuple[bytes, bytes, bytes]:
    """Two digits that the demo's network knows, and noise."""
    noise = home.parent / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(noise)
    return digit(home, 0), digit(home, 1), noise.read_bytes()


@pytest.fixture(scope="module")
def answers(home: Path, pictures: tuple[bytes, ...]) -> list[dict[str, Any]]:
    """What the network's own server says of them, asked as its line on stderr says."""
    command = [sys.executable, "-m", "modkernel.flows.cli", "serve-network", "digits"]
    with subprocess.Popen(
        [*command, "--port", str(free_ports(1)[0])],
        cwd=ROOT,
        env=environment(home),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline()
            url = line.split()[-1]
            assert "curl -H 'Content-Type: image/png' --data-binary @picture.png" in line
            found = [invoked(url, each, "image/png")[0] for each in pictures]
            process.terminate()
            assert process.wait(timeout=5) == -signal.SIGTERM
        finally:
            process.kill()
    return found


def test_a_network_is_served(answers: list[dict[str, Any]]) -> None:
    """A digit is known and near, noise is far."""
    zero, one, other = answers
    assert (zero["label"], one["label"]) == ("0", "1")
    assert max(zero["distance"], one["distance"]) < 1.5 < 3 < other["distance"]


@pytest.mark.long
def test_mlflows_server_answers_the_same(
    home: Path, pictures: tuple[bytes, ...], answers: list[dict[str, Any]]
) -> None:
    with mlflow_serving(home) as url:
        body = {"inputs": [base64.b64encode(each).decode() for each in pictures]}
        theirs = invoked(url, json.dumps(body).encode(), "application/json")
    for our, their in zip(answers, theirs, strict=True):
        assert their["label"] == our["label"]
        assert their["probabilities"] == pytest.approx(our["probabilities"], abs=1e-5)
        assert their["distance"] == pytest.approx(our["distance"], rel=1e-3)


@contextmanager
def mlflow_serving(home: Path) -> Iterator[str]:
    """Where MLflow's own server answers for the demo's output module."""
    (port,) = free_ports(1)
    command = ("models", "serve", "-m", "models:/digits.output/1", "--env-manager", "local")
    address = f"http://127.0.0.1:{port}"
    store = f"sqlite:///{home / 'mlflow.db'}"
    variables = {
        "MODKERNEL_HOME": str(home),
        # Other tests of this process may have set the second.
        **dict.fromkeys(("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"), store),
    }
    with serving([*command, "-h", "127.0.0.1", "-p", str(port)], f"{address}/ping", variables):
        yield f"{address}/invocations"


def invoked(url: str, body: bytes, kind: str) -> Any:
    """What a server predicts."""
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())["predictions"]


def test_a_network_from_elsewhere_is_imported(modkernel: Shell, home: Path) -> None:
    weights = home.parent / "resnet18.safetensors"
    save_file(torchvision.models.resnet18(weights=None).state_dict(), weights)
    command = (
        *("modules", "import", "resnet18", "--name", "far", "--cut", "layer1,layer2"),
        *("--weights", str(weights), "--image-size", "32", "--json"),
    )
    unlicensed = modkernel(*command)
    assert unlicensed.code == 1
    assert "--licence" in unlicensed.err
    found = modkernel(*command, "--licence", "bsd-3-clause").json
    assert [one["new"] for one in found["modules"]] == [True, True]
    assert [one["name"] for one in found["modules"]] == ["far.hidden-1", "far.hidden-2"]
    assert "layer3.0.conv1.weight" in found["left_out"]
    again = modkernel(*command, "--licence", "bsd-3-clause").json
    assert [(one["id"], one["new"]) for one in again["modules"]] == [
        (one["id"], False) for one in found["modules"]
    ]
    shown = modkernel("modules", "show", "far.hidden-2", COLUMNS="200").out
    assert "torchvision/resnet18" in shown
    assert "bsd-3-clause" in shown
