"""The device that tests of the core compute on: `pytest --device cuda` runs them on a GPU."""

from __future__ import annotations

import os

import pytest
import torch

from modkernel.system.precision import Arithmetic, choose_arithmetic

DEVICE = choose_arithmetic(os.environ.get("MODKERNEL_TEST_DEVICE", "cpu")).device
FLOAT32 = Arithmetic(DEVICE, torch.float32)
needs_gpu = pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a GPU and --device cuda")

if DEVICE.type == "cuda":
    # Bit for bit, and in whole float32: what the tests hold does not depend on the card.
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
