"""Outputs of frozen modules: computed without a gradient, and cached for the next use."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from modkernel.control import Stop, never_stop
from modkernel.data.sources import ExampleSource
from modkernel.errors import DataError, SettingsError, StoppedError
from modkernel.features.cache import VALUES, FeatureCache, FeatureKey, NoRoomError
from modkernel.features.sources import BATCH, Features, in_order
from modkernel.spec import ModuleSpec
from modkernel.system.memory import free_memory
from modkernel.system.precision import Arithmetic

LARGEST_MICRO_BATCH = {"cpu": 128}
"""Examples that go through a chain at once, by device, where fewer than `BATCH` are quicker:
ResNet-18 of width 16 on 32 x 32 images, bfloat16, two threads: 9,800 images a second in
micro-batches of 128, 6,800 in 512."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CacheEntry:
    """A place for features in a cache."""

    cache: FeatureCache
    key: FeatureKey


def cache_entry(
    cache: FeatureCache | None,
    spec: ModuleSpec,
    split: str | None,
    arithmetic: Arithmetic,
    transform: str = "plain",
) -> CacheEntry | None:
    """The place for what a module takes of a split; None without a cache or a whole split.

    Args:
        cache: the cache.
        spec: of the module, which names its upstream and data.
        split: name of the split.
        arithmetic: number format.
        transform: what is done to the examples before or after the upstream.
    """
    if cache is None or split is None:
        return None
    upstream = spec.interface.upstream
    if spec.interface.joins:
        weights = " ".join(repr(one.weight) for one in upstream)
        shape = "x".join(map(str, spec.interface.takes))
        transform = f"joined {shape} by {weights} {transform}"
    key = FeatureKey(
        module=" ".join(spec.interface.stands_on),
        data=spec.dataset.fingerprint,
        split=split,
        transform=transform,
        dtype=arithmetic.name,
    )
    return CacheEntry(cache, key)


def compute_features(
    chain: nn.Module,
    examples: ExampleSource,
    arithmetic: Arithmetic,
    *,
    entry: CacheEntry | None = None,
    extra: Mapping[str, Tensor] | None = None,
    gpu_limit: int | None = None,
    stop: Stop = never_stop,
) -> Features:
    """Outputs of a frozen chain for all examples, from the cache if they are there.

    They are cached on disk and mapped, if they fit into the cache. If not (it is too small, or
    its disk is full) or without one, they are held in memory, and where they would take more than
    half of what is free, in a file that is gone when this process ends. With a GPU they are held
    in its memory where they take no more than `gpu_limit` bytes.

    Args:
        chain: maps raw batches [B, ...] to outputs [B, ...].
        examples: N of them.
        arithmetic: where and in which format the chain runs; outputs keep its format.
        entry: the cache and the key; without one they are computed and held in memory.
        extra: small tensors that are cached with them.
        gpu_limit: bytes; `gpu_share` of these features alone if left out.
        stop: called before every batch, and while another process computes the same.

    Raises:
        DataError: there are no examples.
        SettingsError: neither memory nor the cache's disk has room for them.
        StoppedError: `stop` said so.
    """

    def blocks() -> Iterator[Tensor]:
        runner = MicroBatches(lambda raw: _forward(chain, raw, arithmetic), arithmetic.device)
        for raw in examples.batches(in_order(len(examples)), arithmetic.device):
            if stop():
                raise StoppedError(
                    "Training was stopped while the modules below ran over the data: "
                    "run the same command to resume."
                )
            yield from runner.outputs(raw)

    count = len(examples)
    if not count:
        raise DataError("There are no examples to compute features of: give some.")
    limit = gpu_share(arithmetic.device) if gpu_limit is None else gpu_limit
    if entry is not None:
        try:
            found = entry.cache.find_or_make(entry.key, count, blocks, extra, stop)
            return Features(_on_gpu_if_small(found[VALUES], arithmetic.device, limit))
        except NoRoomError as error:
            log.warning("Features are not cached for the next use: %s.", error)
    folder = None if entry is None else entry.cache.folder
    return Features(_collect(blocks(), count, limit, folder))


def _collect(blocks: Iterator[Tensor], count: int, limit: int, folder: Path | None) -> Tensor:
    """The outputs [count, …] of blocks [B, …] in order, on a GPU, in memory or in a file."""
    values: Tensor | None = None
    done = 0
    for output in blocks:
        if values is None:
            values = _allocate(count, output, limit, folder)
        values[done : done + len(output)] = output.to(values.device)
        done += len(output)
    assert values is not None, "a block at least, of examples at least one"
    return values


@torch.no_grad()
def _forward(chain: nn.Module, raw: Tensor, arithmetic: Arithmetic) -> Tensor:
    with arithmetic.autocast():
        output: Tensor = chain(arithmetic.arrange(raw))
    return output


class MicroBatches:
    """Runs a function over batches in parts that the device's memory holds.

    It begins with the quickest size, and halves it each time the memory runs out.
    """

    def __init__(self, run: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.run, self.largest = run, LARGEST_MICRO_BATCH.get(device.type, BATCH)

    def outputs(self, batch: Tensor) -> Iterator[Tensor]:
        """The function's values for a batch [B, ...], one micro-batch after the other.

        Raises:
            torch.OutOfMemoryError: there is no room for a single example.
        """
        done = 0
        while done < len(batch):
            part = batch[done : done + self.largest]
            try:
                output = self.run(part)
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.largest = len(part) // 2
                continue
            done += len(part)
            yield output


def gpu_share(device: torch.device, sources: int = 1) -> int:
    """Bytes of a GPU's memory for each of several sources: half of what is free, shared evenly."""
    return torch.cuda.mem_get_info(device)[0] // 2 // sources if device.type == "cuda" else 0


def _on_gpu_if_small(values: Tensor, device: torch.device, limit: int) -> Tensor:
    """On a GPU if they take no more than `limit` bytes, so that a step picks its batch there."""
    return values.to(device) if values.nbytes <= limit else values


def _allocate(count: int, like: Tensor, limit: int, folder: Path | None) -> Tensor:
    """Room for the outputs of `count` examples like those of a block [B, …]."""
    shape = (count, *like.shape[1:])
    size = count * like[0].numel()
    nbytes = size * like.element_size()
    on_gpu = like.is_cuda and nbytes <= limit
    if on_gpu or folder is None or nbytes <= free_memory() // 2:
        return torch.empty(shape, dtype=like.dtype, device=like.device if on_gpu else "cpu")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # It has no name: nothing is left behind.
            if hasattr(os, "posix_fallocate"):
                # The process would be killed by SIGBUS if the disk filled up behind the mapping.
                os.posix_fallocate(file.fileno(), 0, nbytes)
            mapped = torch.from_file(
                f"/proc/self/fd/{file.fileno()}", shared=True, size=size, dtype=like.dtype
            )
    except OSError as error:
        raise SettingsError(
            f"There is no room for {nbytes >> 20} MiB of features, neither in memory nor in "
            f"{folder} ({error.strerror}). Make room on that disk, or set MODKERNEL_HOME to a "
            "folder on one that has it."
        ) from None
    return mapped.view(shape)
