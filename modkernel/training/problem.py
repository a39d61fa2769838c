"""What `minimise` trains: a model, the batches of its examples, their loss, and its validation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Problem(Protocol):
    """A model and all that its optimisation takes of the data.

    Methods hold no random state of their own: what is random comes from the generator that they
    are given, so that a resumed run repeats what an undisturbed one would have done.
    """

    @property
    def model(self) -> nn.Module:
        """Trained in place, on its device; parameters without a gradient stay as they are."""
        ...

    @property
    def steps(self) -> int:
        """Steps of one epoch: how many batches `batches` gives. Nothing is drawn for it."""
        ...

    def batches(self, generator: torch.Generator) -> Sequence[Tensor]:
        """Indices of the examples of each step of one epoch.

        Args:
            generator: on the CPU, seeded for the epoch.

        Returns:
            int64 [B] on the CPU for each of `steps`.
        """
        ...

    def load(self, order: Sequence[Tensor], epoch: int) -> Iterator[Tensor]:
        """The examples of index batches, as `loss` takes them.

        Args:
            order: what `batches` gave, or the end of it where an epoch is resumed.
            epoch: counted from 0.

        Returns:
            [B, …] on the model's device for each index batch, in that order.
        """
        ...

    def loss(
        self, raw: Tensor, indices: Tensor, generator: torch.Generator
    ) -> Tensor | Iterator[Tensor]:
        """What a step minimises, with the model in train mode.

        A model of several parts (see `minimise`) gives the loss of each in order. The next one is
        asked for when the gradient of the one before has been taken, so that the activations of
        one part are held at a time.

        Args:
            raw: a batch [B, …] of `load`.
            indices: of its examples, int64 [B] on the CPU.
            generator: on the CPU, seeded for the step.

        Returns:
            A scalar with a gradient; of several parts one each.
        """
        ...

    def validate(self) -> float | tuple[float, ...] | None:
        """The value whose best epoch's weights are taken, higher is better; model in eval mode.

        None where nothing is held out: the last epoch's weights are taken then. Of several parts
        one each: the last one's decides for all.
        """
        ...


@runtime_checkable
class PreparedProblem(Problem, Protocol):
    """A problem whose loss is a function of tensors on the device, so that it can be replayed.

    `loss(raw, …)` is `prepared_loss(*prepare(raw, …))`.
    """

    @property
    def replayable(self) -> bool:
        """Whether a GPU may replay its steps, see `can_replay`."""
        ...

    def prepare(
        self, raw: Tensor, indices: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """All that the loss takes of a step, on the device; arguments as those of `loss`.

        Nothing here waits for the device, so that a step is prepared while the one before runs.
        """
        ...

    def prepared_loss(self, *inputs: Tensor) -> Tensor:
        """The loss of what `prepare` gave; shapes, and nothing else, depend on values on the host.

        Nothing here waits for the device, or copies to it.
        """
        ...
