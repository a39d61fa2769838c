"""What all specs have in common."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

Shape = tuple[int, ...]
"""Shape of one example, without the batch dimension: [C, H, W] or [d]."""


class Spec(BaseModel):
    """Base of all specs: immutable, and unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def canonical_json(self) -> str:
        """The spec as JSON with sorted keys and no white space: equal specs, equal text."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, as 64 hexadecimal digits."""
        return hashlib.sha256(self.canonical_json().encode()).hexdigest()

    def changed(self, **fields: Any) -> Self:
        """A copy with other values in some fields, validated as if it had been written so.

        Raises:
            pydantic.ValidationError: a value is not allowed, or there is no such field.
        """
        return type(self).model_validate({**dict(self), **fields})
