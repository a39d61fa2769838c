"""Checkpoints: one safetensors file that holds tensors and, as its metadata, everything else.

One file, replaced atomically, so a process that dies while writing leaves the checkpoint before.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modkernel.system.files import written_whole

TENSOR = "$tensor"
"""Key of a mapping that stands for a tensor in the JSON of the rest."""
FILE = "checkpoint.safetensors"
"""Name of the file in the folder of a run."""


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        # A file cannot hold two names of one memory, as tied weights are.
        tensors[path] = plain.clone() if plain.data_ptr() == value.data_ptr() else plain
        return {TENSOR: path}
    if isinstance(value, dict):
        return {str(key): _split(item, f"{path}/{key}", tensors) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_split(item, f"{path}/{index}", tensors) for index, item in enumerate(value)]
    return value


def _join(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if TENSOR in value:
            return tensors[value[TENSOR]]
        return {key: _join(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_join(item, tensors) for item in value]
    return value


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON values, in place of the one before."""
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_split(state, "", tensors))
    with written_whole(folder / FILE) as temporary:
        save_file(tensors, temporary, metadata={"state": rest})


def read_checkpoint(folder: Path) -> dict[str, Any] | None:
    """Read what `write_checkpoint` wrote; keys come back as strings, tuples as lists.

    None where there is no checkpoint, or only a damaged one: training then starts again.
    """
    try:
        with safe_open(folder / FILE, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        state = _join(json.loads(metadata["state"]), tensors)
    except (FileNotFoundError, SafetensorError, KeyError, ValueError):
        return None
    return state if isinstance(state, dict) else None


def optimizer_state(state: dict[str, Any]) -> dict[str, Any]:
    """Give an optimiser's state that came through JSON its integer keys back."""
    return {**state, "state": {int(key): value for key, value in state["state"].items()}}


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators (dropout draws from them)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
