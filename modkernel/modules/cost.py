"""What a stored module costs at prediction: parameters, and multiply-adds an example."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modkernel.modules.stored import check_spec_trusted, hidden_skeleton
from modkernel.spec import AnyHiddenSpec

__all__ = ["Cost", "hidden_cost"]


@dataclass(frozen=True)
class Cost:
    """Of one module or of several."""

    parameters: int
    multiply_adds: int
    """Of one example, in convolutions and matrix products; what is element by element is not in."""
    layers: int
    """That multiply by a matrix of weights or convolve."""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.layers + other.layers,
        )


def hidden_cost(module_id: str, spec: AnyHiddenSpec) -> Cost:
    """What a hidden module itself costs, without those under it; its weights are not needed.

    A user's own backbone is imported within `modkernel.lookup.trusting` alone.

    Raises:
        SpecError: the backbone cannot be made here, such as a user's own that is not trusted.
        InterfaceError: it does not take what the spec says.
    """
    from torch.utils.flop_counter import FlopCounterMode  # Which takes long to import.

    check_spec_trusted(module_id, spec)
    takes = spec.interface.takes
    module, _ = hidden_skeleton(spec)
    if len({each.device for each in module.parameters()}) > 1:  # A map, on a user's own blocks.
        module = module.to_empty(device="cpu")
    parameters = list(module.parameters())
    example = torch.zeros(1, *takes, device=parameters[0].device if parameters else None)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module.eval()(example)
    return Cost(
        parameters=sum(each.numel() for each in parameters),
        multiply_adds=counter.get_total_flops() // 2,
        layers=sum(each.ndim > 1 for each in parameters),
    )
