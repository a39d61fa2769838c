"""HTML pages that need no server and no network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from importlib.resources import files


def filled(package: str, values: Mapping[str, str]) -> str:
    """A package's `page.html`, with each name in `values` replaced by its value.

    In one pass: what is put in is not searched again, whatever it holds.
    """
    template = files(package).joinpath("page.html").read_text(encoding="utf-8")
    return re.sub("|".join(values), lambda found: values[found[0]], template)


def picture(shown: str, title: str | None = None) -> str:
    """An example, an image as `data:image/…` or else text, as HTML; the title shows on hovering."""
    named = "" if title is None else f' title="{escape(title)}"'
    if shown.startswith("data:image/"):
        return f'<img src="{escape(shown)}"{named} alt="">'
    return f"<code{named}>{escape(shown)}</code>"
