"""What a module search gives: every candidate, what it cost, and the network of the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from modkernel.flows.runtime.results import ModuleResult, NetworkResult
from modkernel.flows.search.spec import Candidate
from modkernel.spec import Spec
from modkernel.training.report import ClassRecall

__all__ = ["CandidateResult", "SearchResult", "describe"]


class CandidateResult(Spec):
    """One candidate on one module of the stage before it."""

    stage: int
    """From 1."""
    candidate: int
    """Its place among the stage's candidates, from 1."""
    description: str
    """What tells it from the other candidates of its stage."""
    stands_on: str | None
    """Id of the module below; none in the first stage."""
    module: ModuleResult | None
    """None where training it failed."""
    score: float | None
    """None where it failed, or where the score is undefined for it."""
    balanced_accuracy: float | None = None
    """Where the score is an accuracy, on the same examples."""
    worst_class: ClassRecall | None = None
    """Likewise."""
    held_out: bool = True
    """Whether the score is of examples that are not trained on: of few there are too few."""
    kept: bool
    """Whether the next stage, or the network, stands on it."""
    error: str | None = None
    """Why it has no score."""


class SearchResult(Spec):
    """A search that is done."""

    name: str
    score: str
    beam: int
    candidates: tuple[CandidateResult, ...]
    """Stage after stage; within one, those on the best module below first."""
    network: NetworkResult
    """The best candidates with their output module."""
    trained_modules: int
    """By this call: of the candidates, and the output module."""
    reused_modules: int
    """Likewise: those that were there already."""
    training_seconds: float
    """Spent training all the candidates, whenever that was; the output module's are its own."""
    networks: int
    """How many networks the candidates that could be trained make up: the product over stages."""
    networks_seconds: float
    """What training each of these from its first module on would take, by the same times."""
    seconds: float
    """Of the whole flow."""

    @property
    def winners(self) -> frozenset[str]:
        """Ids of the modules of the network."""
        return frozenset(module.id for module in self.network.modules)


def describe(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """What each candidate of a stage is: of the first one the fields in which any other differs.

    Of the others, those in which they differ from the first: 'width 64, epochs 20'.
    """
    flat = [_flatten(candidate.model_dump(mode="json")) for candidate in candidates]
    first = flat[0]
    names = list(dict.fromkeys(name for fields in flat for name in fields))
    differing = [name for name in names if len({str(fields.get(name)) for fields in flat}) > 1]
    of_first = [f"{_short(name)} {_value(first[name])}" for name in differing if first.get(name)]
    texts = [", ".join(of_first) or ("as the backbone" if differing else "the only one")]
    for fields in flat[1:]:
        changed = [name for name in differing if str(fields.get(name)) != str(first.get(name))]
        texts.append(", ".join(f"{_short(name)} {_value(fields.get(name))}" for name in changed))
    return tuple(texts)


def cost(stages: Sequence[Sequence[CandidateResult]]) -> tuple[float, int, float]:
    """Seconds spent training; number of all networks; seconds that training each would take.

    A stage's modules take what those of it that were trained took in the mean. A candidate that
    could be trained on no module below is in no network; one on several counts once.

    Args:
        stages: the candidates of each stage.
    """
    times = [[row.module.seconds for row in stage if row.module is not None] for stage in stages]
    able = [{row.candidate for row in stage if row.module is not None} for stage in stages]
    networks = math.prod(map(len, able))
    one = sum(sum(stage) / len(stage) for stage in times)
    return sum(map(sum, times)), networks, networks * one


def _flatten(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        name = f"{prefix}{key}"
        flat |= _flatten(inner, f"{name}.") if isinstance(inner, dict) else {name: inner}
    return flat


def _short(name: str) -> str:
    """'temperature' for 'objective.temperature'; 'objective' for 'objective.name'."""
    first, *_, last = ["", *name.split(".")]
    parent = name.split(".")[-2] if "." in name else first
    return (parent if last == "name" else last).replace("_", " ")


def _value(value: object) -> str:
    if value is None:
        return "as usual"
    return f"{value:g}" if isinstance(value, float) else str(value)
