"""What `advise --together` shows: the modules to join, what each brings, and what to type."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from modkernel.flows.cli._output import out, percent, print_table

if TYPE_CHECKING:
    from modkernel.registry import JoinStep, Together

UNUSED = {
    "interface": "that cannot stand beside others on these data",
    "features": "without cached features of these data",
    "pairs": "that may have seen the held-out examples",
    "seen": "that have seen held-out examples",
}
"""Why modules are not among those that can be joined, after how many they are."""


def print_together(found: Together, options: Mapping[str, object]) -> None:
    """The modules to join for a task, step by step.

    Args:
        found: what was chosen.
        options: of the command, to be repeated in the one to type next.
    """
    steps = found.steps
    scores = ["" if one.score is None else f"{one.score:.4f}" for one in steps]
    costs = [(_count(one.parameters), _count(one.multiply_adds)) for one in steps]
    columns = {
        "step ": [str(number) for number in range(1, len(steps) + 1)],
        "module": [_named(one) for one in steps],
        "balanced ": [percent(one.balanced_accuracy) for one in steps],
        "gain in points": ["", *(_gain(one) for one in steps[1:])],
        f"{found.score} ": scores,
        "features ": [str(one.features) for one in steps],
        "parameters ": [parameters for parameters, _ in costs],
        "multiply-adds ": [products for _, products in costs],
        "seconds ": [f"{one.seconds:.1f}" for one in steps],
    }
    filled = {head: cells for head, cells in columns.items() if any(cells)}
    print_table(
        f"To join for {found.dataset}: {', '.join(found.task.groups)}",
        tuple(filled),
        zip(*filled.values(), strict=True),
        dropped_first=[head for head in (f"{found.score} ", "features ") if head in filled],
    )
    sample = (
        f"{found.examples}"
        if found.examples == found.of_examples
        else f"{found.examples} of {found.of_examples}"
    )
    out.print(
        f"Chosen from {found.candidates} modules in {found.seconds:.1f} s, fitted in closed form "
        f"to {sample} training examples. What each brings is told by {found.judging} held-out "
        "examples that took no part in the choice; a module is joined while it lowers their "
        "squared error by two standard errors.",
        soft_wrap=True,
    )
    if found.refused is not None:
        out.print(
            f"The next best, {_named(found.refused)}, would bring {_gain(found.refused)} points, "
            "and no lower error beyond noise: the choice ends before it.",
            soft_wrap=True,
        )
    for reason, count in Counter(one.reason for one in found.left_out).items():
        what = "1 module" if count == 1 else f"{count} modules"
        out.print(f"Not among them: {what} {UNUSED[reason]}.", soft_wrap=True)
    out.print(f"Next: {shlex.join(_command(found, options))}", soft_wrap=True)


def _command(found: Together, options: Mapping[str, object]) -> list[str]:
    slug = re.sub(r"[^a-z0-9]+", "-", "-".join(found.task.groups).lower()).strip("-")
    words = ["modkernel", "compose", *map(_named, found.steps)]
    words += ["--name", f"joined-{slug[:40]}".strip("-"), "--method", "ridge"]
    for name, value in options.items():
        if value is not None:
            words += [f"--{name}", str(value)]
    return words


def _named(step: JoinStep) -> str:
    return f"{step.module.name}/{step.module.version}"


def _gain(step: JoinStep) -> str:
    return f"{100 * step.gain:+.1f} ± {100 * step.gain_error:.1f}"


def _count(number: int | None) -> str:
    """1234567 → 1.23 M."""
    if number is None:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
