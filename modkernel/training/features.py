"""Outputs of frozen modules: computed without a gradient, kept in memory or in a mapped file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from modkernel.assemble import check_chain
from modkernel.errors import InterfaceError, SettingsError, StoppedError
from modkernel.preprocess import Preprocess
from modkernel.spec import ModuleSpec
from modkernel.stored import StoredModule, build_module
from modkernel.training.precision import Arithmetic
from modkernel.training.report import Stop, never_stop

BATCH = 512
MEMORY_LIMIT = 1 << 30
"""Bytes of features that are kept in memory; more go to a memory-mapped file."""


class Examples(Protocol):
    """A source of raw or computed examples, addressed by index."""

    def __len__(self) -> int: ...

    def batches(self, order: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        """One batch [B, ...] on the device for each index batch [B]."""
        ...


class Features:
    """Computed examples [N, ...] as a source of batches."""

    def __init__(self, values: Tensor) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def batches(self, order: Sequence[Tensor], device: torch.device) -> Iterator[Tensor]:
        """One batch [B, ...] on the device for each index batch [B]."""
        for indices in order:
            picked = self.values[indices.to(self.values.device, non_blocking=True)]
            yield picked.to(device, non_blocking=True)


def frozen_upstream(spec: ModuleSpec, modules: Sequence[StoredModule]) -> nn.Sequential:
    """Preprocessing and stored modules below the module that `spec` describes, frozen.

    Maps raw examples [B, ...] to what the module takes. Eval mode, no parameter with a gradient.

    Raises:
        InterfaceError: the modules are not a chain, or not the one that `spec` stands on.
    """
    if modules:
        check_chain(modules)
        if modules[0].spec.preprocessing != spec.preprocessing:
            raise InterfaceError(
                "The module's preprocessing differs from that of the chain it is to stand on: "
                "take the preprocessing of the chain's first module."
            )
    found = modules[-1].id if modules else spec.preprocessing.id
    if found != spec.interface.upstream:
        raise InterfaceError(
            f"The module stands on upstream {spec.interface.upstream[:24]}, but was given "
            f"{found[:24]}: pass the whole chain below it, in order."
        )
    chain = nn.Sequential(Preprocess(spec.preprocessing), *map(build_module, modules))
    return chain.eval().requires_grad_(False)


def in_order(count: int, size: int = BATCH) -> tuple[Tensor, ...]:
    """Index batches of all examples, in order."""
    return tuple(torch.arange(count).split(size))


@torch.no_grad()
def compute_features(
    chain: nn.Module,
    examples: Examples,
    arithmetic: Arithmetic,
    *,
    folder: Path | None = None,
    memory_limit: int = MEMORY_LIMIT,
    stop: Stop = never_stop,
) -> Features:
    """Outputs of a frozen chain for all examples.

    Args:
        chain: maps raw batches [B, ...] to outputs [B, ...].
        examples: N of them.
        arithmetic: where and in which format the chain runs; outputs keep its format.
        folder: where the memory-mapped file goes; none keeps everything in memory.
        memory_limit: bytes above which the file is used.
        stop: asked before every batch.

    Raises:
        SettingsError: the disk has no room for the file.
        StoppedError: `stop` said so.
    """
    values: Tensor | None = None
    done = 0
    order = in_order(len(examples))
    for raw in examples.batches(order, arithmetic.device):
        if stop():
            raise StoppedError(
                "Training was stopped while the modules below ran over the data: "
                "run the same command to go on."
            )
        with arithmetic.autocast():
            output = chain(arithmetic.arrange(raw))
        if values is None:
            values = _room(len(examples), output, folder, memory_limit)
        values[done : done + len(output)] = output.to(values.device)
        done += len(output)
    assert values is not None, "data sets are never empty"
    return Features(values)


def _room(count: int, like: Tensor, folder: Path | None, limit: int) -> Tensor:
    shape = (count, *like.shape[1:])
    size = count * like[0].numel()
    if folder is None or size * like.element_size() <= limit:
        return torch.empty(shape, dtype=like.dtype, device=like.device)
    path = folder / "features.bin"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                # The process would be killed by SIGBUS if the disk filled up behind the mapping.
                os.posix_fallocate(file.fileno(), 0, size * like.element_size())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SettingsError(
            f"Cannot keep {size * like.element_size() >> 20} MiB of features in {folder}: "
            f"{error.strerror}. Make room on that disk, or set the home folder to one that has it."
        ) from None
    return torch.from_file(str(path), shared=True, size=size, dtype=like.dtype).view(shape)
