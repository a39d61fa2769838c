"""Where the weights of a module are from that was not trained here."""

from __future__ import annotations

from pydantic import Field

from modkernel.spec.base import Spec


class Origin(Spec):
    """A file of weights, and on which terms it may be used."""

    weights_sha256: str = Field(description="Of the whole file, in hex.")
    licence: str = Field(description="As whoever imported it stated it, such as 'apache-2.0'.")
