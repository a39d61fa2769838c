"""Networks that were trained elsewhere: cut into modules that compute the very same."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn

from modkernel.backbones import blocks_of, build_hidden
from modkernel.errors import (
    CutError,
    InterfaceError,
    ModkernelError,
    SpecError,
    UnknownNameError,
    WeightsError,
)
from modkernel.lookup import trusting
from modkernel.modules.export import TOLERANCE, export
from modkernel.modules.imported import read_weights, write_network
from modkernel.modules.network import assemble
from modkernel.modules.plain_names import plain_tensors
from modkernel.modules.source import find_source
from modkernel.modules.stored import stored_weights, write_module
from modkernel.spec import BackboneSpec, KernelSpec, Preprocessing
from tests.modkernel.helpers.stored_examples import store_output

HERE = "tests.modkernel.test_imported"
IMAGES = Preprocessing(
    shape=(3, 32, 32), dtype="uint8", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
)
SMALL = Preprocessing(shape=(1, 8, 8), dtype="uint8", mean=(0.5,), std=(0.25,))


class Tiny(nn.Module):
    """A residual sum, arithmetic between layers, and something that only training runs."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.body = nn.Sequential(
            nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        )
        self.scale = nn.Parameter(torch.full((1,), 0.5))
        self.register_buffer("offset", torch.ones(1), persistent=False)
        self.fc = nn.Linear(width, 3)

    def forward(self, x: Tensor, unused: Tensor | None = None) -> Tensor:
        h = self.stem(x)
        h = (self.body(h) + h) * self.scale + self.offset
        first, second = h.chunk(2, 1)  # Of two tensors: no place for a cut.
        h = torch.cat((second, first), 1)
        if unused is not None:
            h = h + unused
        if self.training:
            h = h * 0
        return self.fc(h.mean((2, 3)))


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def number() -> int:
    return 7


def fails() -> nn.Module:
    raise KeyError("width")


TINY = BackboneSpec(name=f"{HERE}:Tiny", whole=True)


def saved(network: nn.Module, path: Path, **changed: Tensor | None) -> Path:
    """Its weights in a file, but for some; those of None are left out."""
    tensors = {**network.state_dict(), **changed}
    save_file({k: v.clone() for k, v in tensors.items() if v is not None}, path)
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Tiny, Path]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Tiny()
        network.body[2].running_mean.uniform_()
        network.body[2].running_var.uniform_(0.5, 2)
    return network.eval(), saved(network, tmp_path / "tiny.safetensors")


def write(folder: Path, path: Path, *ends: str, backbone: BackboneSpec = TINY):
    return write_network(folder, backbone, read_weights(path), ends, SMALL, "mit")


def test_a_resnet_of_torchvision_gives_its_own_features(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
    path = saved(network.eval(), tmp_path / "resnet18.safetensors")
    backbone = BackboneSpec(name="torchvision/resnet18")
    ends = ("layer2", "layer4.1", "flatten")
    made = write_network(tmp_path, backbone, read_weights(path), ends, IMAGES, "bsd-3-clause")
    assert made.left_out == ("fc.bias", "fc.weight")
    assembled = assemble(made.modules)
    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGES.mean, IMAGES.std))
    x = (pixels / 255 - mean) / std
    network.fc = nn.Identity()
    with torch.no_grad():
        features = network(x)
        stem = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        second = network.layer2(network.layer1(stem))
    assert torch.allclose(assembled.features(pixels), features, atol=1e-5, rtol=0)
    assert torch.allclose(assembled.features(pixels, 1), second, atol=1e-5, rtol=0)
    # What is exported is loaded by torchvision's own class.
    plain = {k: v for k, v in plain_tensors(assembled).items() if k not in ("mean", "std")}
    assert network.load_state_dict(plain, strict=True).missing_keys == []


def test_any_network_is_cut_where_one_tensor_passes(tmp_path, tiny):
    network, path = tiny
    names = [block.name for block in blocks_of(TINY)]
    # Between 'stem' and the sum, what the stem gave is needed beside what comes after it.
    assert names == ["stem", "add", "mul", "add_1", "cat", "mean", "fc"]
    made = write(tmp_path, path, "stem", "mean")
    with trusting([TINY.name]):
        assembled = assemble(made.modules)
    pixels = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        expected = network((pixels / 255 - 0.5) / 0.25)
        assert torch.allclose(network.fc(assembled.features(pixels)), expected, atol=1e-6)
    with pytest.raises(SpecError, match="MODKERNEL_TRUSTED_PACKAGES"):
        assemble(made.modules)
    with pytest.raises(CutError, match=r"no block 'body\.1' .* stem, add, mul"):
        write(tmp_path / "2", path, "body.1")
    with pytest.raises(CutError, match="order"):
        write(tmp_path / "2", path, "mean", "stem")
    assert not (tmp_path / "2").exists()


def test_the_digest_covers_weights_and_cut(tmp_path, tiny):
    network, path = tiny
    first = write(tmp_path / "1", path, "stem", "mean")
    again = write(tmp_path / "2", path, "stem", "mean")
    assert [m.id for m in first.modules] == [m.id for m in again.modules]
    elsewhere = write(tmp_path / "3", path, "mean")
    # The stem has the same weights, but it is of another file.
    other = saved(network, tmp_path / "other.safetensors", **{"fc.bias": torch.zeros(3)})
    changed = write(tmp_path / "4", other, "stem", "mean")
    known = {m.spec.digest() for m in first.modules}
    assert known.isdisjoint(m.spec.digest() for m in (*elsewhere.modules, *changed.modules))


def test_weights_of_another_form_are_listed(tmp_path, tiny):
    network, path = tiny
    for changed, message in (
        ({"body.1.bias": None}, r"missing: body\.1\.bias\)"),
        ({"body.3.weight": torch.ones(2)}, r"not of the network: body\.3\.weight"),
        ({"stem.bias": torch.ones(3)}, r"stem\.bias is float32 \[3\], must be float32 \[4\]"),
        ({"stem.bias": torch.full((4,), torch.nan)}, r"no numbers in stem\.bias"),
        (dict.fromkeys(network.state_dict()) | {"a": torch.ones(1)}, "missing: .*; not of .*: a"),
    ):
        wrong = saved(network, tmp_path / "wrong.safetensors", **changed)
        with pytest.raises(WeightsError, match=message):
            write(tmp_path / "made", wrong, "mean")
    assert not (tmp_path / "made").exists()
    # A classifier of other classes, or none; old files count no batches; halves become floats.
    whole = {"fc.weight": torch.ones(9, 4), "fc.bias": None, "fc.extra": torch.ones(1)}
    old = {"body.2.num_batches_tracked": None, "stem.bias": network.stem.bias.detach().half()}
    made = write(tmp_path / "made", saved(network, path, **whole, **old), "mean")
    assert made.left_out == ("fc.extra", "fc.weight")


def test_pickles_are_refused_with_what_converts_them(tmp_path, tiny):
    network, _ = tiny
    hostile = "x'; touch owned; $(touch owned) `touch owned` \" .pth"
    for name in (hostile, "tiny.safetensors"):
        torch.save(network.state_dict(), tmp_path / name)
        with pytest.raises(WeightsError, match=r"is a pickle.*save_file") as refused:
            read_weights(tmp_path / name)
        command = str(refused.value).partition("convert it with ")[2]
        converted = tmp_path / f"{Path(name).stem}.converted.safetensors"
        assert shlex.split(command)[-2:] == [str(tmp_path / name), str(converted)]
        if name == hostile:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            subprocess.run(
                command, shell=True, check=True, cwd=tmp_path, env=os.environ | {"PATH": path}
            )
            assert not (tmp_path / "owned").exists()
            assert read_weights(converted).tensors.keys() == network.state_dict().keys()
    (tmp_path / "tiny.safetensors").write_bytes(b"text")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_weights(tmp_path / "tiny.safetensors")


def test_safetensors_that_begin_as_a_pickle_does_are_read(tmp_path):
    """A file begins with the length of its header, and a pickle with the byte 0x80."""
    for count in range(1, 200):
        content = save({f"layer{k}.weight": torch.full((2,), k) for k in range(count)})
        if content[0] == 0x80:
            break
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert len(read_weights(path).tensors) == count
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(WeightsError, match="is a pickle"):
        read_weights(path)


@pytest.mark.parametrize("dtype", ["F8_E8M0", "F4"])
def test_numbers_that_torch_cannot_read_are_told(tmp_path, dtype):
    header = json.dumps(
        {"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 - (dtype == "F4")]}}
    )
    padded = header.ljust(-(-len(header) // 8) * 8).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(padded)) + padded + bytes(2 - (dtype == "F4")))
    with pytest.raises(WeightsError, match="not a safetensors file of weights"):
        read_weights(path)


def test_weights_that_are_too_large_in_float32_are_refused(tmp_path, tiny):
    network, _ = tiny
    wide = network.stem.weight.double() * 1e300
    path = saved(network, tmp_path / "wide.safetensors", **{"stem.weight": wide})
    with pytest.raises(WeightsError, match=r"(no numbers|another shape or type).*stem\.weight"):
        write(tmp_path, path, "fc")
    small = network.stem.weight.to(torch.float8_e4m3fn)
    path = saved(network, tmp_path / "small.safetensors", **{"stem.weight": small})
    write(tmp_path, path, "fc")


def test_a_network_with_an_fc_of_its_own_is_exported_whole(tmp_path, tiny):
    (one,) = write(tmp_path, tiny[1], "fc").modules
    kernel = KernelSpec(name="relu")
    out, _ = store_output(tmp_path / "out", one.spec.interface.gives, one.id, kernel)
    spec = out.spec.changed(preprocessing=SMALL)
    out = write_module(tmp_path / "output", spec, stored_weights(out))
    with trusting(["tests"]):
        network = assemble([one, out])
    file = tmp_path / "net.safetensors"
    pixels = torch.randint(0, 256, (4, 1, 8, 8), dtype=torch.uint8)
    assert export(network, "state-dict", file, pixels) <= TOLERANCE
    found = load_file(file)
    assert found["fc.weight"].shape == network.output.weight.shape
    for name, tensor in network.hidden[0].state_dict().items():
        assert torch.equal(found[f"hidden-1.{name.partition('.')[2]}"], tensor)


@pytest.mark.parametrize(
    ("backbone", "error", "message"),
    [
        ({"name": "torchvision/resnet19"}, UnknownNameError, "torchvision network 'resnet19'"),
        # Whose builder would fetch weights.
        ({"name": "torchvision/ssd300_vgg16"}, UnknownNameError, "torchvision network"),
        ({"name": "torchvision/resnet18", "width": 8}, SpecError, "leave 'width'"),
        # A stored spec must not have weights fetched, nor unpickled.
        ({"name": "torchvision/resnet18", "options": {"weights": "DEFAULT"}}, SpecError, "leave"),
        ({"name": f"{HERE}:Undecided", "whole": True}, SpecError, "cannot be traced"),
        ({"name": f"{HERE}:number", "whole": True}, SpecError, "gave a int"),
        ({"name": f"{HERE}:fails", "whole": True}, SpecError, "KeyError"),
        ({"name": "mlp", "whole": True}, SpecError, "'whole' is for backbones by import path"),
    ],
)
def test_networks_that_cannot_be_cut(backbone, error, message):
    with pytest.raises(error, match=message):
        blocks_of(BackboneSpec(**backbone))


def test_a_network_that_takes_other_images(tmp_path, tiny):
    backbone = BackboneSpec(name="torchvision/resnet18")
    with pytest.raises(InterfaceError, match="conv1"):
        write(tmp_path / "made", tiny[1], "layer1", backbone=backbone)


def test_blocks_of_a_whole_network_start_with_weights_of_seed_and_name():
    built = [build_hidden(TINY, blocks, (1, 8, 8), 3) for blocks in (("stem",), ("stem", "add"))]
    first, both = (module.state_dict() for module in built)
    assert torch.equal(first["stem.stem.weight"], both["stem.stem.weight"])
    other = build_hidden(TINY, ("stem",), (1, 8, 8), 4).state_dict()
    assert not torch.equal(first["stem.stem.weight"], other["stem.stem.weight"])


def test_sources(tmp_path):
    found = find_source("inception_v3")
    assert found.backbone.name == "torchvision/inception_v3"
    assert found.usual is not None
    assert found.usual.image_size == (299, 299)
    assert find_source(TINY.name).backbone == TINY
    told = {"input_size": [3, 64, 48], "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"architecture": "resnet18", "pretrained_cfg": told}))
    (tmp_path / "README.md").write_text("---\ntags: [a]\nlicense: apache-2.0\n---\n# A network\n")
    found = find_source(str(tmp_path))
    assert found.backbone == BackboneSpec(name="torchvision/resnet18")
    assert (found.weights, found.licence) == (tmp_path / "model.safetensors", "apache-2.0")
    assert found.usual is not None
    assert (found.usual.image_size, found.usual.std) == ((64, 48), (1, 2, 3))
    for content, message in (
        ({"architectures": ["ResNetForImageClassification"]}, "ResNetForImageClassification"),
        ({"architecture": "resnet18", "model_args": {"in_chans": 1}}, "model_args"),
        ([], "no JSON object"),
    ):
        config.write_text(json.dumps(content))
        with pytest.raises(SpecError, match=message):
            find_source(str(tmp_path))
    with pytest.raises(SpecError, match="no folder"):
        find_source(str(tmp_path / "nothing"))


def test_timm_is_asked_for_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ModkernelError, match="pip install timm"):
        find_source("timm:resnet50d")
