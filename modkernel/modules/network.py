"""Assemble stored modules into one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from torch import Tensor, nn

from modkernel.errors import InterfaceError
from modkernel.kernels import make_kernel
from modkernel.modules.output import OutputModule
from modkernel.modules.preprocess import Normalise
from modkernel.modules.stored import StoredModule, build_module


class Network(nn.Module):
    """Preprocessing, hidden modules in order, and an output module if there is one.

    It is frozen: always in eval mode and without gradients, even after `train()`.

    Attributes:
        preprocess: Raw examples -> what the first hidden module takes.
        hidden: The hidden modules, first to last.
        output: The output module, or None.
        classes: The output module's classes in the order of its logits, or None.
        stored: What the modules were built from, first to last.
    """

    def __init__(
        self,
        preprocess: Normalise,
        hidden: nn.ModuleList,
        output: OutputModule | None,
        stored: tuple[StoredModule, ...],
    ) -> None:
        super().__init__()
        self.preprocess, self.hidden, self.output = preprocess, hidden, output
        self.stored = stored
        self.classes = stored[-1].spec.classes
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: the statistics of stored modules never change."""
        return super().train(False)

    def features(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Output of the hidden modules, [N, …], for raw examples [N, …].

        Args:
            x: Raw examples, as the data set gives them.
            upto: How many hidden modules to pass; None is all of them.

        Raises:
            InterfaceError: raw examples of another shape or dtype, or no such hidden module.
        """
        if upto is not None and not 0 <= upto <= len(self.hidden):
            raise InterfaceError(
                f"The network has {len(self.hidden)} hidden modules, not {upto}: "
                f"use 0 to {len(self.hidden)}."
            )
        h: Tensor = self.preprocess(x)
        for module in self.hidden[:upto]:
            h = module(h)
        return h

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C] for raw examples [N, …].

        Raises:
            InterfaceError: no output module, or raw examples of another shape or dtype.
        """
        if self.output is None:
            raise InterfaceError(
                "The network has no output module, so it gives features only: train an output "
                "module on it (modkernel compose)."
            )
        logits: Tensor = self.output(self.features(x))
        return logits

    def predict(self, x: Tensor) -> Tensor:
        """Class probabilities [N, C], the softmax of the logits, for raw examples [N, …].

        They are calibrated, if at all, for an output module trained with cross-entropy; for hinge
        and ridge only their order has a meaning.

        Raises:
            InterfaceError: as in `forward`.
        """
        probabilities: Tensor = self(x).softmax(dim=1)
        return probabilities

    def rows(self, x: Tensor) -> Tensor:
        """What whoever uses the network gets, a row an example, for raw examples [N, …].

        Returns:
            Class probabilities [N, C]; without an output module the last hidden module's kernel
            features φ(h) [N, d], or h itself, flattened, under a kernel without features.

        Raises:
            InterfaceError: raw examples of another shape or dtype.
        """
        if self.output is not None:
            return self.predict(x)
        h = self.features(x)
        kernel = make_kernel(self.stored[-1].spec.interface.kernel)
        return kernel.features(h) if kernel.has_features else h.flatten(1)


def check_chain(modules: Sequence[StoredModule]) -> None:
    """Check that each module stands on the one before it, by id; the first on its preprocessing.

    Raises:
        InterfaceError: it does not; the message names the position, and the expected and found
            upstream. Or no modules at all, an output module before the last position, or shapes
            that do not meet.
    """
    if not modules:
        raise InterfaceError("There is no module to assemble: give at least one.")
    preprocessing = modules[0].spec.preprocessing
    upstream, shape = preprocessing.id, preprocessing.shape
    for position, module in enumerate(modules, start=1):
        interface = module.spec.interface
        at = f"Position {position} of {len(modules)} ({module.spec.kind} module {module.id[:12]})"
        if interface.upstream != upstream:
            raise InterfaceError(
                f"{at} was trained on upstream {_short(interface.upstream)}, but stands on "
                f"{_short(upstream)} here: use a module trained on that one, or put its own "
                "upstream before it. Equal shapes do not suffice."
            )
        if module.spec.preprocessing != preprocessing:
            raise InterfaceError(
                f"{at} names {_short(module.spec.preprocessing.id)}, but the network begins with "
                f"{_short(preprocessing.id)}: use modules of one chain."
            )
        if interface.takes != shape:
            raise InterfaceError(
                f"{at} takes {list(interface.takes)}, but is given {list(shape)}: "
                "use modules of one chain."
            )
        if module.spec.kind == "output" and position < len(modules):
            raise InterfaceError(f"{at} must be the last one: nothing stands on an output module.")
        upstream, shape = module.id, interface.gives


def assemble(modules: Sequence[StoredModule]) -> Network:
    """Build the network that the stored modules make up, first to last.

    Returns:
        A frozen network on the CPU; without an output module if the last one is hidden.

    Raises:
        InterfaceError: as in `check_chain`.
        ArtifactError, SpecError: as in `modkernel.modules.stored.build_module`.
    """
    check_chain(modules)
    built = [build_module(module) for module in modules]
    last = built[-1]
    output = last if isinstance(last, OutputModule) else None
    hidden = nn.ModuleList(built if output is None else built[:-1])
    return Network(Normalise(modules[0].spec.preprocessing), hidden, output, tuple(modules))


def _short(upstream: str) -> str:
    digest = upstream.removeprefix("preprocessing-")
    return f"preprocessing {digest[:12]}" if digest != upstream else upstream[:12]
