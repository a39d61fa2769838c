"""What a hidden module's stored spec says of those that it was trained together with."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec.base import Spec


class TogetherSpec(Spec):
    """Which of the modules that were trained in one pass a module is."""

    group: str = Field(description="Digest of the `GroupSpec` of all of them.")
    position: int = Field(ge=1, description="Of the module among them, from 1.")
    count: int = Field(ge=1, description="How many they are.")

    @property
    def text(self) -> str:
        """The same in words."""
        return f"module {self.position} of {self.count} that were trained together, in one pass"
