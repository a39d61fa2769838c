"""The page on which a person labels examples: one HTML file that needs no server and no network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape

from modkernel.flows.display.pages import filled, picture


def label_page(
    csv_name: str,
    ids: Sequence[str],
    shown: Sequence[str],
    classes: Sequence[str],
    given: Mapping[str, str],
) -> str:
    """The page as HTML.

    A click or a digit gives the example in view a class and moves on to the next; the button
    downloads the CSV file, filled in as far as it is. Labels stay in the browser until then.

    Args:
        csv_name: what the downloaded file is called.
        ids: of the examples, in the order of the CSV file.
        shown: of each example an image as `data:image/…`, or text.
        classes: to choose from; if there are none, they are named on the page.
        given: labels by id that there are already: they come before those in the downloaded file.
    """
    items = "\n".join(
        _item(number, name, what)
        for number, (name, what) in enumerate(zip(ids, shown, strict=True))
    )
    state = {
        "file": csv_name,
        "classes": list(classes),
        "given": list(given.items()),
    }
    values = {
        "@CSV@": escape(csv_name),
        "@COUNT@": str(len(ids)),
        "@ITEMS@": items,
        # '<' would end the script, wherever it stands.
        "@STATE@": json.dumps(state).replace("<", "\\u003c"),
    }
    return filled("modkernel.flows.labels", values)


def _item(number: int, name: str, what: str) -> str:
    # Without its folder, which is the class's where an image folder has classes.
    title = escape(name.rsplit("/", 1)[-1])
    return (
        f'<button type="button" class="item" data-id="{escape(name)}" title="{title}">'
        f'<span class="number">{number + 1}</span>{picture(what)}'
        '<span class="given"></span></button>'
    )
