"""Assemble stored modules into one network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Self

from torch import Tensor, nn

from modkernel.errors import InterfaceError
from modkernel.kernels import JOINED, make_kernel
from modkernel.modules.join import joined_shape, make_join, other_examples, takes_maps
from modkernel.modules.output import OutputModule
from modkernel.modules.preprocess import Normalise
from modkernel.modules.stored import StoredModule, build_module
from modkernel.spec import Interface, Preprocessing
from modkernel.spec.upstream import PREPROCESSING


class Graph(nn.Module):
    """Hidden modules, each run once on what it stands on: raw [N, …] -> what stands on them takes.

    A chain is the graph in which each stands on the one before it. It is frozen: always in eval
    mode and without gradients, even after `train()`.

    Args:
        stored: The modules, each after all that it stands on.
        top: Interface of the module that stands on them; the last one's output is given where it
            is left out.
        preprocessing: Of the raw examples, where there is no module.

    Attributes:
        preprocess: Raw examples -> what a first module takes: one for each that there is.
        hidden: The hidden modules.
    """

    def __init__(
        self,
        stored: Sequence[StoredModule],
        top: Interface | None = None,
        preprocessing: Preprocessing | None = None,
    ) -> None:
        super().__init__()
        roots = {} if preprocessing is None else {preprocessing.id: preprocessing}
        for module in stored:
            if module.spec.preprocessing.id in module.spec.interface.stands_on:
                roots.setdefault(module.spec.preprocessing.id, module.spec.preprocessing)
        self.preprocess = nn.ModuleList(map(Normalise, roots.values()))
        self.hidden = nn.ModuleList(map(build_module, stored))
        places = {name: place for place, name in enumerate((*roots, *(one.id for one in stored)))}
        below = {one.id: one.spec.interface for one in stored}
        interfaces = [one.spec.interface for one in stored]
        if top is not None:
            interfaces.append(top)
        self._takes = [[places[one] for one in each.stands_on] for each in interfaces]
        self._joins = [_join(each, below) for each in interfaces]
        if top is None:
            self._takes.append([len(places) - 1])
            self._joins.append(None)
        last = {place: step for step, taken in enumerate(self._takes) for place in taken}
        self._last = [
            [place for place in taken if last[place] == step]
            for step, taken in enumerate(self._takes)
        ]
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: the statistics of stored modules never change."""
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        """What stands on the modules takes, [N, …], for raw examples [N, …].

        Raises:
            InterfaceError: raw examples of another shape or dtype.
        """
        return self.outputs(x)

    def outputs(self, x: Tensor, upto: int | None = None) -> Tensor:
        """The same; or, where it is given, the output of the first `upto` hidden modules."""
        found: dict[int, Tensor] = {
            place: preprocess(x) for place, preprocess in enumerate(self.preprocess)
        }
        for step, module in enumerate(self.hidden):
            if step == upto:
                break
            found[len(self.preprocess) + step] = module(self._taken(step, found))
        if upto is not None and upto < len(self.hidden):
            return found[len(self.preprocess) + upto - 1 if upto else 0]
        return self._taken(len(self.hidden), found)

    def _taken(self, step: int, found: dict[int, Tensor]) -> Tensor:
        """What the module of a step takes; outputs that no later one takes are let go."""
        join = self._joins[step]
        taken = [found[place] for place in self._takes[step]]
        for place in self._last[step]:
            del found[place]
        return taken[0] if join is None else join(taken)


def _join(
    interface: Interface, below: Mapping[str, Interface]
) -> Callable[[Sequence[Tensor]], Tensor] | None:
    if not interface.joins:
        return None
    return make_join(interface, [below[one] for one in interface.stands_on])


class Network(Graph):
    """Preprocessing, hidden modules, each after all that it stands on, and maybe an output module.

    Attributes:
        preprocess: Raw examples -> what a first hidden module takes: one for each that there is.
        hidden: The hidden modules, in their order.
        output: The output module, or None.
        classes: The output module's classes in the order of its logits, or None.
        stored: What the modules were built from, in their order.
    """

    def __init__(self, stored: Sequence[StoredModule]) -> None:
        last = stored[-1]
        is_output = last.spec.kind == "output"
        super().__init__(
            stored[:-1] if is_output else stored,
            last.spec.interface if is_output else None,
            last.spec.preprocessing if is_output and len(stored) == 1 else None,
        )
        self.output: OutputModule | None = None
        if is_output:
            output = build_module(last)
            assert isinstance(output, OutputModule)
            self.output = output
        self.stored = tuple(stored)
        self.classes = last.spec.classes

    @property
    def top(self) -> StoredModule | None:
        """The hidden module under the output module; None where that is none, or several."""
        last = self.stored[-1].spec
        if last.kind == "output" and not last.interface.joins and len(self.stored) > 1:
            return self.stored[-2]
        return None

    def features(self, x: Tensor, upto: int | None = None) -> Tensor:
        """Output of the hidden modules, [N, …], for raw examples [N, …].

        On several modules side by side that is what the output module takes: their features.

        Args:
            x: Raw examples, as the data set gives them.
            upto: How many hidden modules to pass, of which the last one's output is given; None is
                all of them.

        Raises:
            InterfaceError: raw examples of another shape or dtype, or no such hidden module.
        """
        if upto is not None and not 0 <= upto <= len(self.hidden):
            raise InterfaceError(
                f"The network has {len(self.hidden)} hidden modules, not {upto}: "
                f"use 0 to {len(self.hidden)}."
            )
        return self.outputs(x, upto)

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
    """Check that each module comes after all that it stands on, by id, and that nothing is left.

    A first module stands on its preprocessing. Most often that is a chain, each on the one before
    it; where a module stands on several, their chains come one after the other, and what they share
    comes once.

    Raises:
        InterfaceError: it does not; the message names the position, and the expected and found
            upstream. Or no modules at all, one that is there twice or that nothing stands on, an
            output module before the last position, chains of different raw examples, or shapes
            that do not meet.
    """
    if not modules:
        raise InterfaceError("There is no module to assemble: give at least one.")
    known: dict[str, StoredModule] = {}
    before = modules[0].spec.preprocessing.id
    for position, module in enumerate(modules, start=1):
        at = f"Position {position} of {len(modules)} ({module.spec.kind} module {module.id[:12]})"
        if module.id in known:
            raise InterfaceError(f"{at} is there twice: name each module once.")
        _check_place(at, module, known, before)
        if module.spec.kind == "output" and position < len(modules):
            raise InterfaceError(f"{at} must be the last one: nothing stands on an output module.")
        before, known[module.id] = module.id, module
    below = {one for module in modules for one in module.spec.interface.stands_on}
    for position, module in enumerate(modules[:-1], start=1):
        if module.id not in below:
            raise InterfaceError(
                f"Position {position} of {len(modules)} ({module.spec.kind} module "
                f"{module.id[:12]}): nothing here stands on it. Use modules of one network, or "
                "leave it out."
            )


def _check_place(
    at: str, module: StoredModule, known: Mapping[str, StoredModule], before: str
) -> None:
    """Check that a module fits what it stands on, of the modules before it."""
    spec, interface = module.spec, module.spec.interface
    preprocessing, shape = spec.preprocessing, spec.preprocessing.shape
    if interface.stands_on != (preprocessing.id,):
        for upstream in interface.stands_on:
            if upstream not in known:
                raise InterfaceError(
                    f"{at} was trained on upstream {_short(upstream)}, but stands on "
                    f"{_short(before)} here: use a module trained on that one, or put its own "
                    "upstream before it. Equal shapes do not suffice."
                )
        below = [known[upstream].spec for upstream in interface.stands_on]
        preprocessing, shape = below[0].preprocessing, below[0].interface.gives
        for one, upstream in zip(below, interface.stands_on, strict=True):
            differing = other_examples(preprocessing, one.preprocessing)
            if differing is not None:
                first = _short(interface.stands_on[0])
                raise InterfaceError(f"{at}: {first} and {_short(upstream)} {differing}")
        if interface.joins:
            maps = spec.kind == "hidden" and takes_maps(interface)
            shape = joined_shape([one.interface for one in below], maps)
    if spec.preprocessing != preprocessing:
        raise InterfaceError(
            f"{at} names {_short(spec.preprocessing.id)}, but the network begins with "
            f"{_short(preprocessing.id)}: use modules of one chain."
        )
    if interface.takes != shape:
        raise InterfaceError(
            f"{at} takes {list(interface.takes)}, but is given {list(shape)}: "
            "use modules of one chain."
        )
    if (interface.kernel.name == JOINED) != (interface.joins and spec.kind == "output"):
        raise InterfaceError(
            f"{at} has the kernel '{interface.kernel.name}': '{JOINED}' is that of an output "
            "module on several modules, and of no other."
        )


def assemble(modules: Sequence[StoredModule]) -> Network:
    """Build the network that the stored modules make up, each after all that it stands on.

    Returns:
        A frozen network on the CPU; without an output module if the last one is hidden.

    Raises:
        InterfaceError: as in `check_chain`.
        ArtifactError, SpecError: as in `modkernel.modules.stored.build_module`.
    """
    check_chain(modules)
    return Network(modules)


def _short(upstream: str) -> str:
    digest = upstream.removeprefix(PREPROCESSING)
    return f"preprocessing {digest[:12]}" if digest != upstream else upstream[:12]
