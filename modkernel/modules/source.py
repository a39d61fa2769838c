"""What a person may name as the network to import: each form, and what is known of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modkernel.backbones.elsewhere import Usual, usual_images
from modkernel.errors import SpecError
from modkernel.lookup import is_import_path
from modkernel.spec import BackboneSpec

SAME_IN_TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
"""Architectures of timm that torchvision has under the same name, with the same tensors and the
same function: timm is not needed for these."""
TIMM = "timm:"
"""What a name of timm's begins with."""


@dataclass(frozen=True)
class Source:
    """A network as somebody named it.

    Attributes:
        backbone: builds it.
        weights: its file, where that is known from the source itself.
        usual: how its images are made, where that is known.
        licence: where the source states one.
    """

    backbone: BackboneSpec
    weights: Path | None = None
    usual: Usual | None = None
    licence: str | None = None


def find_source(name: str) -> Source:
    """The network that a person means.

    Args:
        name: 'resnet50' (torchvision's), 'timm:NAME', a folder as Hugging Face's Hub has it, or
            'package.module:function', which returns the network.

    Raises:
        UnknownNameError: the package has no such network.
        SpecError: timm is missing, or the folder does not say what can be built here.
    """
    if name.startswith(TIMM):
        return _of_package(f"timm/{name.removeprefix(TIMM)}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _of_folder(folder)
    if is_import_path(name):
        return Source(BackboneSpec(name=name, whole=True))
    if "/" in name:
        raise SpecError(
            f"There is no folder {folder}: name one with config.json and model.safetensors, a "
            "network of torchvision ('resnet50') or of timm ('timm:resnet50d'), or the import path "
            "'package.module:function' of your own."
        )
    return _of_package(f"torchvision/{name}")


def _of_package(name: str) -> Source:
    return Source(BackboneSpec(name=name), usual=usual_images(name))


def _of_folder(folder: Path) -> Source:
    """A folder with config.json, as timm writes it, and model.safetensors."""
    config = _config(folder / "config.json")
    architecture = config.get("architecture")
    if not isinstance(architecture, str):
        told = config.get("architectures") or config.get("model_type") or "nothing"
        raise SpecError(
            f"{folder / 'config.json'} names no 'architecture' of timm's (it says {told}): import "
            "its model.safetensors with the import path of a function that builds the network."
        )
    if config.get("model_args"):
        raise SpecError(
            f"{folder / 'config.json'} changes {architecture} by 'model_args': import its "
            "model.safetensors with the import path of a function that builds that network."
        )
    package = "torchvision" if architecture in SAME_IN_TORCHVISION else "timm"
    found = _of_package(f"{package}/{architecture}")
    told = config.get("pretrained_cfg") or {}
    usual: Usual | None
    try:
        _, height, width = told["input_size"]
        usual = Usual((height, width), tuple(told["mean"]), tuple(told["std"]))
    except (KeyError, TypeError, ValueError):
        usual = found.usual
    return Source(found.backbone, folder / "model.safetensors", usual, _licence(folder, told))


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise SpecError(
            f"{path} cannot be read as JSON ({error}): name a folder with config.json and "
            "model.safetensors."
        ) from error
    if not isinstance(config, dict):
        raise SpecError(f"{path} is no JSON object: name a folder as the Hub has it.")
    return config


def _licence(folder: Path, told: Any) -> str | None:
    """What the configuration or the head of the model card states."""
    stated = told.get("license") if isinstance(told, dict) else None
    if isinstance(stated, str):
        return stated
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    head = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*(\S+)\s*$", head[1], re.MULTILINE) if head else None
    return found[1] if found else None
