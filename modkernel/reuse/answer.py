"""What a network answers to examples: label, probabilities, and how far they lie from its data."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import torch
from torch import Tensor

from modkernel.errors import DataError, InterfaceError, MomentsError
from modkernel.kernels import make_kernel
from modkernel.modules.network import Network
from modkernel.reuse.distance import distance_from
from modkernel.reuse.moments import ModuleMoments

__all__ = ["BATCH", "Answer", "Distance", "answering", "distance_of"]

BATCH = 256
"""Examples that pass through the network at once."""
Distance = Callable[[Tensor], Tensor]
"""Outputs [N, …] of a network's last hidden module -> distances [N] from its data."""


class Answer(TypedDict):
    """What a network says of one example."""

    label: str
    """The most probable class."""
    probability: float
    """Of that class."""
    probabilities: dict[str, float]
    """Of every class, in the network's order."""
    distance: float | None
    """From the data of its last hidden module; see `distance_of`, which tells when it is None."""


def distance_of(network: Network, moments: ModuleMoments | None) -> Distance | None:
    """How far examples lie from the data of a network's last hidden module.

    Args:
        network: Any.
        moments: Of its last hidden module, or None where there are none.

    Returns:
        See `modkernel.reuse.distance`. None where it is not known: without moments, or on those of
        few examples; on several modules side by side; under a kernel without features of its own,
        whose moments are against centres that nobody keeps.

    Raises:
        MomentsError: the moments are another module's.
    """
    last = network.top
    if moments is None or last is None:
        return None
    if moments.module_id != last.id:
        raise MomentsError(
            f"These moments are of module {moments.module_id[:12]}, and the network's last "
            f"hidden module is {last.id[:12]}: use that one's."
        )
    kernel = make_kernel(last.spec.interface.kernel)
    if not kernel.has_features:
        return None
    try:
        far = distance_from(moments)
    except MomentsError:  # Of so few examples that no distance has a unit.
        return None
    return lambda h: far(kernel.features(h))


def answering(network: Network, moments: ModuleMoments | None) -> Callable[[Tensor], list[Answer]]:
    """What answers to raw examples [N, …].

    Args:
        network: With an output module.
        moments: Of its last hidden module, or None where there are none.

    Returns:
        A function: raw examples to an answer each. It raises InterfaceError for another shape or
        dtype than the network takes.

    Raises:
        InterfaceError: the network has no output module.
        MomentsError: the moments are another module's.
    """
    output, classes = network.output, network.classes
    if output is None or classes is None:
        raise InterfaceError(
            "This network has no output module: train one on it with 'modkernel compose'."
        )
    distance = distance_of(network, moments)

    def answer(examples: Tensor) -> list[Answer]:
        found: list[Answer] = []
        with torch.inference_mode():
            for batch in examples.split(BATCH):
                h = network.features(batch)
                rows = output(h).softmax(1)
                if not bool(torch.isfinite(rows).all()):
                    raise DataError("An example has values too large to compute with: check them.")
                far = [None] * len(batch) if distance is None else distance(h)
                for row, one in zip(rows.tolist(), far, strict=True):
                    best = max(range(len(row)), key=row.__getitem__)
                    found.append(
                        Answer(
                            label=classes[best],
                            probability=row[best],
                            probabilities=dict(zip(classes, row, strict=True)),
                            distance=None if one is None else float(one),
                        )
                    )
        return found

    return answer
