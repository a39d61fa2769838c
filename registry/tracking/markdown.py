"""Text from data (names of classes, folders, tasks) within Markdown, which also takes HTML."""

from __future__ import annotations

import re

_MEANS_SOMETHING = re.compile(r"[\\`*\[\]<>&|$~#!]|(?<![^\W_])_|_(?![^\W_])")
"""What Markdown, HTML or formulas read as more than itself; '_' only at the edge of a word."""


def plain(text: str) -> str:
    """Text that is shown as it is, in one line: every sign with a meaning becomes an entity.

    >>> plain("a_b | <b>")
    'a_b &#124; &#60;b&#62;'
    """
    return _MEANS_SOMETHING.sub(lambda sign: f"&#{ord(sign[0])};", " ".join(text.split()))
