"""Where the raw examples of a split come from: memory or a device, or files decoded on the fly."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from modkernel.data.changes import check_unchanged
from modkernel.data.images import PLAIN, decode, decode_many
from modkernel.data.layout import ListedFile
from modkernel.errors import DataError, ImageError
from modkernel.spec import ImageReading, Shape
from modkernel.system.limits import usable_cores

CHECKED = 1024
"""Images that are decoded at once only to see whether they can be."""
MOST_WORKERS = 4
"""Processes that decode images ahead of a training step, at most."""


def hand_over(batch: Tensor, device: torch.device | str) -> Tensor:
    """A batch on another device, without waiting for the copy where that is safe.

    Work that a GPU is given later waits for the copy by itself. A CPU does not: it would read what
    is not there yet. Only out of pinned memory does a GPU copy while it computes.
    """
    to = torch.device(device)
    if to.type == "cuda" and batch.device.type == "cpu" and not batch.is_pinned():
        batch = batch.pin_memory()
    return batch.to(to, non_blocking=to.type != "cpu")


class ExampleSource(Protocol):
    """Examples addressed by index: raw ones of a data set, or features computed of them."""

    def __len__(self) -> int:
        """Number N of examples."""
        ...

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One batch [B, …] on `device` for each tensor of indices int64 [B], in that order."""
        ...


@dataclass(frozen=True, eq=False)
class Resident:
    """Examples `start` to `stop` of one tensor that is in memory (or mapped) or on a device."""

    base: Tensor
    start: int
    stop: int

    @classmethod
    def whole(cls, tensor: Tensor) -> Resident:
        """All of a tensor [N, …]."""
        return cls(tensor, 0, len(tensor))

    @property
    def tensor(self) -> Tensor:
        """The examples [N, …], without copying."""
        return self.base[self.start : self.stop]

    @property
    def shape(self) -> Shape:
        """Shape of one example."""
        return tuple(self.base.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        """uint8 for images, float32 for vectors."""
        return self.base.dtype

    def __len__(self) -> int:
        return self.stop - self.start

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The examples at int64 [B] `indices`, raw, as [B, …] on `device`."""
        picked = self.tensor[indices.to(self.base.device, non_blocking=True)]
        return hand_over(picked, device)

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One raw batch [B, …] on `device` for each tensor of indices, in that order."""
        for indices in order:
            yield self.batch(indices, device)


@dataclass(frozen=True)
class Streamed:
    """Images that are decoded from their files each time: for a set that memory cannot hold.

    Attributes:
        root: folder of the images.
        files: one per example, as it was listed: one that has changed since is refused.
        shape: [C, H, W] that each is brought to.
        reading: how its pixels become eight bits.
    """

    root: Path
    files: tuple[ListedFile, ...]
    shape: Shape
    reading: ImageReading = PLAIN

    @property
    def paths(self) -> tuple[str, ...]:
        """Of the files, relative to `root`."""
        return tuple(file.path for file in self.files)

    @property
    def dtype(self) -> torch.dtype:
        """Always uint8."""
        return torch.uint8

    def __len__(self) -> int:
        return len(self.files)

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The examples at int64 [B] `indices`, raw, as [B, C, H, W] on `device`.

        Raises:
            ImageError: an image cannot be read, or has changed; the message names it.
        """
        files = [self.files[i] for i in indices.tolist()]
        paths = [self.root / file.path for file in files]
        images = decode_many(paths, self.shape, self.reading)
        check_unchanged(self.root, files)
        return images.to(device)

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One raw batch [B, C, H, W] on `device` for each tensor of indices, in that order.

        A few worker processes decode ahead. They take nothing from the global random state.

        Raises:
            ImageError: an image cannot be read, or has changed; the message names it.
            DataError: a worker process died.
        """
        if len(order) < 2:
            yield from (self.batch(indices, device) for indices in order)
            return
        loader: DataLoader[Tensor | str] = DataLoader(
            _DecodedBatches(self),
            sampler=[indices.tolist() for indices in order],
            batch_size=None,
            num_workers=min(MOST_WORKERS, usable_cores(), len(order)),
            generator=torch.Generator(),
            pin_memory=torch.device(device).type == "cuda",
        )
        try:
            for batch in loader:
                if isinstance(batch, str):
                    raise ImageError(batch)
                yield hand_over(batch, device)
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise DataError(
                f"A process that was reading images from {self.root} died: {error} Give the "
                "machine or container more memory or shared memory (docker: --shm-size=2g)."
            ) from None


def check_decodes(images: Streamed) -> None:
    """Decode all images once: one that cannot be must not end a training run when it comes to it.

    Raises:
        ImageError: an image cannot be read; the message names it.
    """
    for indices in torch.arange(len(images)).split(CHECKED):
        images.batch(indices)


class _DecodedBatches(TorchDataset[Tensor | str]):
    """Decoded batches by lists of indices; an unreadable image comes back as its message.

    An exception that crosses from a worker would arrive with the worker's traceback as its text.
    """

    def __init__(self, images: Streamed) -> None:
        self.images = images

    def __getitem__(self, indices: list[int]) -> Tensor | str:
        images = self.images
        files = [images.files[i] for i in indices]
        try:
            decoded = [
                decode(images.root / file.path, images.shape, images.reading) for file in files
            ]
            check_unchanged(images.root, files)
        except ImageError as error:
            return str(error)
        return torch.stack(decoded)


@dataclass(frozen=True)
class Joined:
    """The examples of one source, then those of another, with nothing copied.

    Attributes:
        first: indices 0 to len(first) - 1.
        second: those from len(first) on; of the same shape and type.
    """

    first: RawExamples
    second: RawExamples

    @property
    def shape(self) -> Shape:
        """Shape of one example."""
        return self.first.shape

    @property
    def dtype(self) -> torch.dtype:
        """uint8 for images, float32 for vectors."""
        return self.first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def batch(self, indices: Tensor, device: torch.device | str = "cpu") -> Tensor:
        """The examples at int64 [B] `indices`, raw, as [B, …] on `device`.

        Raises:
            ImageError: an image cannot be read; the message names it.
        """
        return next(self.batches([indices], device))

    def batches(
        self, order: Sequence[Tensor], device: torch.device | str = "cpu"
    ) -> Iterator[Tensor]:
        """One raw batch [B, …] on `device` for each tensor of indices, in that order.

        Raises:
            ImageError, DataError: as of `Streamed.batches`.
        """
        start = len(self.first)
        from_first = [indices[indices < start] for indices in order]
        from_second = [indices[indices >= start] - start for indices in order]
        # A source is asked for the batches that it has a part in, so that it can read ahead.
        first = self.first.batches([part for part in from_first if len(part)], device)
        second = self.second.batches([part for part in from_second if len(part)], device)
        for indices, one, other in zip(order, from_first, from_second, strict=True):
            if not len(other):
                yield next(first) if len(one) else self.first.batch(one, device)
            elif not len(one):
                yield next(second)
            else:
                # Where each example of the batch is in the parts, one after the other.
                places = (indices >= start).long().argsort(stable=True).argsort()
                parts = torch.cat((next(first), next(second)))
                yield parts[hand_over(places, device)]


RawExamples = Resident | Streamed | Joined
"""Raw examples of a data set: uint8 images [C, H, W] or float32 vectors [d]."""


def join_sources(first: RawExamples, second: RawExamples) -> RawExamples:
    """The examples of the first source, then those of the second, with nothing copied."""
    if isinstance(first, Streamed) and isinstance(second, Streamed):
        joined = replace(first, files=first.files + second.files)
        if joined == replace(second, files=joined.files):  # One pool of workers for both.
            return joined
    if (
        isinstance(first, Resident)
        and isinstance(second, Resident)
        and (first.base is second.base and first.stop == second.start)
    ):
        return replace(first, stop=second.stop)
    return Joined(first, second)


def pick_from(source: RawExamples, rows: Tensor) -> RawExamples:
    """The examples of a source at int64 `rows`, as a source of their own."""
    if isinstance(source, Streamed):
        files = tuple(source.files[row] for row in rows.tolist())
        return replace(source, files=files)
    device = source.base.device if isinstance(source, Resident) else "cpu"
    return Resident.whole(source.batch(rows, device))
