from __future__ import annotations

import json
import math
import re
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from modkernel.errors import ExportError, UnknownNameError
from modkernel.kernels import make_kernel
from modkernel.modules import export as exporting
from modkernel.modules.export import FORMS, KEY, TOLERANCE, export
from modkernel.modules.network import Network, assemble
from modkernel.modules.stored import StoredModule
from modkernel.spec import ImageReading, KernelSpec
from tests.modkernel.helpers.stored_examples import (
    PREPROCESSING,
    store_hidden,
    store_output,
)

LOWER = ("stem", "layer1.0", "layer1.1", "layer2.0")
SMALL = ("stem", "layer2.0")
UPPER = ("layer2.1", "layer3.0", "layer3.1", "layer4.0", "layer4.1")


DOCS = Path(__file__).parents[2] / "docs" / "serving.md"


def plain(file: Path) -> nn.Module:
    """An exported network as the docs' code loads it, which knows nothing of modkernel."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    written = ("channels=1, classes=10, width=16", '"shoes.safetensors"')
    for text, meant in zip(written, ("1, 3, 2", repr(str(file))), strict=True):
        assert text in code
        code = code.replace(text, meant)
    names: dict[str, Any] = {"__name__": "plain"}
    exec(code, names)
    assert "modkernel" not in code
    network = names["plain"]
    assert isinstance(network, nn.Module)
    return network


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredModule, ...]:
    """A ResNet-18 as two hidden modules and an output module."""
    folder = tmp_path_factory.mktemp("stored")
    one, _ = store_hidden(folder / "1", LOWER, (1, 8, 8), PREPROCESSING.id)
    two, _ = store_hidden(folder / "2", UPPER, one.spec.interface.gives, one.id)
    out, _ = store_output(folder / "3", two.spec.interface.gives, two.id)
    return one, two, out


@pytest.fixture(scope="module")
def network(stored: tuple[StoredModule, ...]) -> Network:
    return assemble(stored)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[StoredModule, ...]:
    """A stem and a block that halves the image as one hidden module, and an output module."""
    folder = tmp_path_factory.mktemp("small")
    one, _ = store_hidden(folder / "1", SMALL, (1, 8, 8), PREPROCESSING.id)
    out, _ = store_output(folder / "2", one.spec.interface.gives, one.id)
    return one, out


def pixels(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)


def test_a_resnets_tensors_load_into_plain_torch_code(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    assert export(network, "state-dict", path, pixels(8)) == 0
    x = pixels(20, seed=1)
    with torch.inference_mode():
        torch.testing.assert_close(plain(path)(x), network.predict(x), atol=1e-6, rtol=0)
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()[KEY])
    assert about["classes"] == ["0", "1", "2"]
    assert about["modules"] == [module.id for module in network.stored]
    assert about["input"]["dtype"] == "uint8"
    assert "grey pixels as uint8, 0 to 255, channels first" in about["input"]["means"]


def test_onnx_agrees_for_any_number_of_pictures(
    small: tuple[StoredModule, ...], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    network = assemble(small)
    path = tmp_path / "net.onnx"
    assert export(network, "onnx", path, pixels(8)) <= TOLERANCE
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (takes,), (gives,) = session.get_inputs(), session.get_outputs()
    assert (takes.name, takes.type, takes.shape) == ("input", "tensor(uint8)", ["batch", 1, 8, 8])
    assert (gives.name, gives.shape) == ("probabilities", ["batch", 3])
    about = json.loads(session.get_modelmeta().custom_metadata_map[KEY])
    assert about == exporting.describe(network)
    for count in (1, 2, 11):
        x = pixels(count, seed=count)
        (found,) = session.run(None, {"input": x.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(found), network.predict(x), atol=TOLERANCE, rtol=0
        )


def test_a_program_of_torch_export_agrees(network: Network, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    assert export(network, "torch-export", path, pixels(1)) <= TOLERANCE
    about = {f"{KEY}.json": ""}
    program = torch.export.load(path, extra_files=about).module()
    assert json.loads(about[f"{KEY}.json"])["classes"] == ["0", "1", "2"]
    for count in (1, 2, 11):
        x = pixels(count, seed=count)
        torch.testing.assert_close(program(x), network.predict(x), atol=TOLERANCE, rtol=0)


def test_hidden_modules_alone_give_their_kernel_features(
    small: tuple[StoredModule, ...], tmp_path: Path
) -> None:
    hidden = assemble(small[:1])
    export(hidden, "torch-export", tmp_path / "one.pt2", pixels(4))
    x = pixels(5, seed=1)
    kernel = make_kernel(small[0].spec.interface.kernel)
    program = torch.export.load(tmp_path / "one.pt2").module()
    torch.testing.assert_close(program(x), kernel.features(hidden.features(x)))
    assert exporting.describe(hidden)["output"] == "features"


def test_how_files_are_read_is_told_as_done_before_and_not_inside(tmp_path: Path) -> None:
    reading = ImageReading(value_range=(12, 4095), background=0)
    preprocessing = PREPROCESSING.changed(reading=reading)
    one, _ = store_hidden(tmp_path / "1", SMALL, (1, 8, 8), preprocessing.id, 0, preprocessing)
    about = exporting.describe(assemble([one]))
    assert (
        "before that, outside of this file, values from 12 to 4095 of grey pictures of more than "
        "eight bits are scaled to 0 to 255, and what lies outside is cut off; transparent pictures "
        "are laid on grey level 0; normalisation is inside"
    ) in about["input"]["means"]
    assert about["input"]["reading"] == {"value_range": [12, 4095], "background": 0}
    assert "reading" not in about["preprocessing"]


@pytest.mark.parametrize("form", ["state-dict", "onnx"])
def test_a_gaussian_output_module(form: str, tmp_path: Path) -> None:
    if form == "onnx":
        pytest.importorskip("onnxscript")
    one, _ = store_hidden(tmp_path / "1", LOWER[:2], (1, 8, 8), PREPROCESSING.id)
    centres = assemble([one]).features(pixels(5, seed=1))
    spec = KernelSpec(name="gaussian", sigma=8.0)
    out, _ = store_output(tmp_path / "2", one.spec.interface.gives, one.id, spec, centres)
    network = assemble([one, out])
    assert network.predict(pixels(4)).std(0).min() > 1e-3
    assert export(network, form, tmp_path / "file", pixels(4)) <= TOLERANCE


class Nothing(nn.Module):
    """Gives no numbers, of as many classes."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :3] * math.nan


def test_a_file_that_computes_something_else_is_not_put_in_place(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"before")

    def other(network: Network, examples: Tensor, metadata: str) -> bytes:
        buffer = BytesIO()
        wrong = torch.export.export(Nothing(), (examples,))
        torch.export.save(wrong, buffer)
        return buffer.getvalue()

    made = exporting._Form(other, FORMS["torch-export"].run)
    monkeypatch.setitem(FORMS, "torch-export", made)
    with pytest.raises(ExportError, match="would differ from the network by nan on its own"):
        export(network, "torch-export", path, pixels(8))
    assert path.read_bytes() == b"before"
    assert [file.name for file in tmp_path.iterdir()] == ["net.pt2"]


def test_what_cannot_be_is_one_sentence(
    network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnknownNameError, match="state-dict, onnx, torch-export"):
        export(network, "pickle", tmp_path / "net", pixels(2))
    with pytest.raises(ExportError, match=r"Cannot write .*: Is a directory"):
        export(network, "state-dict", tmp_path, pixels(2))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"pip install 'modkernel\[onnx\]'"):
        export(network, "onnx", tmp_path / "net", pixels(2))


class Branching(nn.Module):
    """Code that torch.export cannot follow: it depends on the values of the examples."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) if x.sum() > 0 else self.inner(-x)  # type: ignore[no-any-return]


def test_code_that_cannot_be_traced_is_told(
    small: tuple[StoredModule, ...], tmp_path: Path
) -> None:
    network = assemble(small)
    network.hidden[0] = Branching(network.hidden[0])
    with pytest.raises(ExportError, match=r"cannot be exported as torch-export .*--to state-dict"):
        export(network, "torch-export", tmp_path / "net", pixels(2))
    assert list(tmp_path.iterdir()) == []
