"""Where the weights of a module are from that was not trained here."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from modkernel.spec.base import Spec


def _one_line(text: str) -> str:
    if not text.isprintable() or not text.strip():
        raise ValueError("write a licence as text in one line, such as apache-2.0")
    return text


Licence = Annotated[str, Field(max_length=200), AfterValidator(_one_line)]
"""Name of a licence: cards and tags show it, also that of a stranger's bundle."""


class Origin(Spec):
    """A file of weights, and on which terms it may be used."""

    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$", description="Of the whole file, in hex.")
    licence: Licence = Field(description="As whoever imported it stated it, such as 'apache-2.0'.")
