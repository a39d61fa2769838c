"""What a run needs of the machine that takes it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import Field

from modkernel.errors import SpecError
from modkernel.flows.runtime.our_version import OUR_VERSION
from modkernel.jobs.job import Device
from modkernel.spec import DatasetSpec, Spec, pairs_from

TAG = "needs:"
"""How tags of a run begin that state what its modules need, such as 'needs:cuda'."""
MEMORY = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GiB|MB|MiB)", re.IGNORECASE)
BYTES = {"gb": 10**9, "gib": 2**30, "mb": 10**6, "mib": 2**20}


class Needs(Spec):
    """What a machine must have to take a run."""

    version: str = Field(OUR_VERSION, description="Of modkernel.")
    device: Device = "auto"
    memory_bytes: int | None = Field(
        None, description="Of the device: what an earlier run took at its peak, or a tag states."
    )
    dataset: DatasetSpec | None = None
    fingerprint: str | None = Field(None, description="That the data set must have.")
    files: tuple[str, ...] = Field((), description="Other files that are read.")

    @property
    def key(self) -> str:
        """A short name for needs that are the same."""
        return self.digest()[:12]


def stated(tags: Iterable[str]) -> dict[str, Any]:
    """Fields of `Needs` that tags of a run state: 'needs:cuda', 'needs:cpu', 'needs:24GB'.

    Raises:
        SpecError: a tag that begins so says nothing of this kind.
    """
    fields: dict[str, Any] = {}
    for tag in tags:
        if not tag.startswith(TAG):
            continue
        value = tag.removeprefix(TAG).strip()
        memory = MEMORY.fullmatch(value)
        if value in ("cuda", "cpu"):
            fields["device"] = value
        elif memory:
            fields["memory_bytes"] = int(float(memory[1]) * BYTES[memory[2].lower()])
        else:
            raise SpecError(
                f"Tag '{tag}' states no need: write {TAG}cuda, {TAG}cpu, or the device's memory, "
                f"such as {TAG}24GB."
            )
    return fields


def paths_in(parameters: Any) -> Iterator[str]:
    """The places of data that parameters of a flow name, in a form or in a spec."""
    if isinstance(parameters, dict):
        for name, value in parameters.items():
            if name in ("path", "pairs", "labels") and isinstance(value, str) and value:
                found = pairs_from(value).file if name == "pairs" else value
                if found is not None:
                    yield found
            else:
                yield from paths_in(value)
    elif isinstance(parameters, list | tuple):
        for value in parameters:
            yield from paths_in(value)
