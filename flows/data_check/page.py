"""A look at a data set as one HTML file that needs no server and no network."""

from __future__ import annotations

from html import escape

from modkernel.flows.data_check.look import ClassCounts, DataLook, Example
from modkernel.flows.display.pages import filled, picture


def data_page(look: DataLook, title: str) -> str:
    """The page as HTML.

    Args:
        look: what is shown.
        title: what the data set is called.
    """
    largest = max(_total(counts) for counts in look.counts)
    shown = look.examples or ((),) * len(look.counts)
    rows = "\n".join(
        _row(counts, largest, examples) for counts, examples in zip(look.counts, shown, strict=True)
    )
    values = {
        "@TITLE@": escape(title),
        "@WHAT@": escape(
            f"{look.what} with {look.n_train + look.n_validation + look.n_test:,} {look.example}"
        ),
        "@TRAIN@": f"{look.n_train:,}",
        "@VALIDATION@": f"{look.n_validation:,}",
        "@TEST@": f"{look.n_test:,}",
        "@FINDINGS@": _findings(look),
        "@ROWS@": rows,
        "@BLOCK@": escape(look.block),
    }
    return filled("modkernel.flows.data_check", values)


def _findings(look: DataLook) -> str:
    if not look.findings:
        return '<p class="fine">Nothing was noticed.</p>'
    items = (
        f"<li><b>{escape(finding.kind)}</b> {escape(finding.text)}</li>"
        for finding in look.findings
    )
    return f"<ul>{''.join(items)}</ul>"


def _row(counts: ClassCounts, largest: int, examples: tuple[Example, ...]) -> str:
    parts = (("train", counts.train), ("validation", counts.validation), ("test", counts.test))
    bar = "".join(
        f'<i class="{name}" style="width:{100 * count / max(1, largest):.2f}%"></i>'
        for name, count in parts
    )
    name = "without labels" if counts.name is None else counts.name
    figures = "".join(f"<td>{count:,}</td>" for _, count in parts)
    pictures = "".join(picture(each.shown, each.id) for each in examples)
    return (
        f'<tr><th scope="row">{escape(name)}</th>{figures}'
        f'<td class="bar"><span>{bar}</span></td><td class="shown">{pictures}</td></tr>'
    )


def _total(counts: ClassCounts) -> int:
    return counts.train + counts.validation + counts.test
