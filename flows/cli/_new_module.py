"""What `advise` says of training a new module, beside what reuse reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modkernel.reuse.new_module import FEWEST

if TYPE_CHECKING:
    from modkernel.registry import NewModule

VERDICTS = {
    "train": "that is probably better than reuse: train one.",
    "reuse": "reuse is probably as good or better.",
    "unsure": "which is better cannot be told.",
}


def new_sentence(new: NewModule) -> str:
    """The forecast in words: what a new module would probably reach, at what cost, and whether."""
    if new.balanced_accuracy is None or new.interval is None or new.seconds_interval is None:
        return (
            f"Whether to train a new module: too few evaluations to say ({new.tasks} of tasks like "
            f"this one and of one recipe, {FEWEST} are needed)."
        )
    low, high = new.interval
    least, most = new.seconds_interval
    where = "on these data" if new.same_data else "on any data"
    reached = "" if new.reached is None else f" Reuse reaches {new.reached:.1%}:"
    return (
        f"A new module ({new.recipe}) would probably reach {new.balanced_accuracy:.1%} balanced "
        f"({low:.1%} to {high:.1%}) in {new.seconds:.0f} s ({least:.0f} to {most:.0f}), by "
        f"{new.tasks} tasks like this one {where}, of which {new.probability:.0%} are expected in "
        f"each interval.{reached} {VERDICTS[new.verdict]}"
    )
