"""Checkpoints: what training resumes from after its process was stopped or killed.

One safetensors file that holds tensors and, as its metadata, everything else. It is replaced
atomically and durably, so a process or a machine that dies while writing leaves one of the two.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from modkernel.errors import ArtifactError
from modkernel.system.files import written_whole

TENSOR = "$tensor"
"""Key of a mapping that stands for a tensor in the JSON of the rest."""
FILE = "checkpoint.safetensors"
"""Name of the file in the folder of a run."""
HOW_COMPUTED = ("fused", "foreach", "capturable")
"""Settings of torch's optimisers that choose a kernel and no formula."""


class Position(NamedTuple):
    """How far training has come; a later one is greater."""

    epoch: int
    """Epochs that are finished."""
    step: int
    """Steps of the next one."""

    def __str__(self) -> str:
        return f"{self.epoch} epochs and {self.step} steps"


@dataclass
class LoopState:
    """Where training stands. `step` counts within the epoch; both count from 0."""

    epoch: int = 0
    step: int = 0
    total: float | list[float] = 0.0
    """Of the loss over the steps; of several parts, each one's."""
    elapsed: float = 0.0
    seconds: float = 0.0
    best_epoch: int = 0
    best_value: float = -math.inf
    history: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Parts:
    """What a training run changes; a checkpoint holds all of their states."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device


@dataclass(frozen=True)
class Standing:
    """How far a training run has come, the last learning rate, and the best weights so far."""

    state: LoopState
    last_rate: float
    best: dict[str, Tensor] | None


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A checkpoint's contents, copied: what training changes from now on is not in it."""

    tensors: dict[str, Tensor]
    rest: str


def snapshot(parts: Parts, standing: Standing, digest: str = "") -> Snapshot:
    """Copy all that an undisturbed run goes on from; `digest` is that of what is trained."""
    return _snapshot(
        {
            "recipe_digest": digest,
            "loop": asdict(standing.state),
            "rate": standing.last_rate,
            "model": parts.model.state_dict(),
            "best": standing.best,
            "optimizer": parts.optimizer.state_dict(),
            "schedule": {
                key: value
                for key, value in parts.schedule.state_dict().items()
                if isinstance(value, int | float | list)
            },
            "random": _random_state(parts.device),
        },
    )


def resume_training(folder: Path, parts: Parts, digest: str = "") -> Standing | None:
    """Bring a new run's parts to where the checkpoint left them.

    Args:
        folder: of the checkpoint.
        parts: of the new run.
        digest: of what is trained. A checkpoint that names none, as older ones, is taken for it.

    Returns:
        Where the run stands; None without a checkpoint, and then the parts are as they were.

    Raises:
        ArtifactError: the checkpoint is that of another recipe, other data or another seed.
    """
    saved = read_checkpoint(folder)
    if saved is None:
        return None
    of = saved.get("recipe_digest") or digest
    if of != digest:
        raise ArtifactError(
            f"The checkpoint in {folder} is of another recipe, other data or another seed "
            f"({of[:12]}, and this training is {digest[:12] or 'of none'}): give each training a "
            "folder of checkpoints of its own, or remove that one."
        )
    parts.model.load_state_dict(saved["model"])
    parts.optimizer.load_state_dict(_for_this_device(saved["optimizer"], parts.optimizer))
    for parameter, state in parts.optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                # A checkpoint forgets channels-last, and another layout may round otherwise.
                state[name] = torch.empty_like(parameter).copy_(value)
    parts.schedule.load_state_dict(saved["schedule"])
    _set_random_state(saved["random"], parts.device)
    return Standing(LoopState(**saved["loop"]), saved["rate"], saved["best"])


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


def _snapshot(state: dict[str, Any]) -> Snapshot:
    tensors: dict[str, Tensor] = {}
    rest = json.dumps(_split(state, "", tensors))
    return Snapshot(tensors, rest)


def write_snapshot(folder: Path, copied: Snapshot) -> None:
    """Write a checkpoint, in place of the one before."""
    with written_whole(folder / FILE, durable=True) as temporary:
        save_file(copied.tensors, temporary, metadata={"state": copied.rest})


def write_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors and JSON values, in place of the one before."""
    write_snapshot(folder, _snapshot(state))


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


def position_of(file: Path) -> Position | None:
    """How far the checkpoint in a file has come; None where there is none, or a damaged one."""
    try:
        with safe_open(file, framework="pt") as opened:
            state = json.loads((opened.metadata() or {})["state"])
        return Position(int(state["loop"]["epoch"]), int(state["loop"]["step"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _for_this_device(state: dict[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """An optimiser's state that came through JSON, with its integer keys again.

    How an optimiser computes is this machine's own, not that of the one that wrote the checkpoint.
    """
    groups = [
        saved | {name: own[name] for name in HOW_COMPUTED if name in own}
        for saved, own in zip(state["param_groups"], optimizer.param_groups, strict=True)
    ]
    states = {int(key): value for key, value in state["state"].items()}
    return {**state, "state": states, "param_groups": groups}


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's global generators (dropout draws from them)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Set what `_random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
