"""Weights that are not what their spec says are refused; own backbones may have buffers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modkernel.backbones import Block
from modkernel.errors import ArtifactError
from modkernel.lookup import trusting
from modkernel.modules.stored import (
    build_module,
    write_module,
)
from modkernel.spec import BackboneSpec, KernelSpec
from tests.modkernel.helpers.stored_examples import (
    PREPROCESSING,
    hidden_spec,
    make_hidden,
    output_spec,
)

BLOCKS = ("stem", "layer1.0")


def test_an_output_module_with_too_few_rows(tmp_path):
    spec = output_spec((4,), "1" * 64, KernelSpec(name="relu"))
    weights = {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}
    with pytest.raises(ArtifactError, match=r"must be torch.float32 \[3, 4\]"):
        build_module(write_module(tmp_path / "output", spec, weights))


@pytest.mark.parametrize(
    ("kernel", "weights"),
    [
        ("gaussian", {"weight": torch.zeros(3, 5), "bias": torch.zeros(3)}),
        (
            "gaussian",
            {
                "weight": torch.zeros(3, 5),
                "bias": torch.zeros(3),
                "centres": torch.zeros(5, 9),
            },
        ),
        (
            "relu",
            {
                "weight": torch.zeros(3, 4),
                "bias": torch.zeros(3),
                "centres": torch.zeros(5, 4),
            },
        ),
    ],
    ids=["missing", "of another shape", "not wanted"],
)
def test_centres_that_do_not_fit(tmp_path, kernel, weights):
    spec = output_spec((4,), "1" * 64, KernelSpec(name=kernel, sigma=1.0))
    with pytest.raises(ArtifactError, match="entres"):
        build_module(write_module(tmp_path / "output", spec, weights))


def test_a_spec_that_promises_another_output(tmp_path):
    _, module = make_hidden(BLOCKS, (1, 8, 8), PREPROCESSING.id)
    lie = hidden_spec(BLOCKS, (1, 8, 8), (9, 8, 8), PREPROCESSING.id)
    with pytest.raises(ArtifactError, match=r"gives \[2, 8, 8\], but its spec says \[9, 8, 8\]"):
        build_module(write_module(tmp_path / "lie", lie, module.state_dict()))


class Shift(nn.Module):
    """Holds a tensor that is computed, not stored."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("shift", torch.full((1,), 2.5), persistent=False)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale + self.shift


def shifting(spec: BackboneSpec) -> list[Block]:
    return [Block("shift", lambda takes: Shift())]


def test_own_backbones_keep_what_they_compute_themselves(tmp_path):
    backbone = BackboneSpec(name="tests.modkernel.test_stored_misfits:shifting")
    spec, module = make_hidden(("shift",), (4,), PREPROCESSING.id, backbone=backbone)
    stored = write_module(tmp_path / "own", spec, module.state_dict())
    with trusting([backbone.name]):
        built = build_module(stored)
    assert torch.equal(built(torch.zeros(1, 4)), torch.full((1, 4), 2.5))
