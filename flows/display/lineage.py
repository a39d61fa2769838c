"""Who stands on whom, as a drawing: modules from left to right, networks at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from html import escape

from modkernel.registry import ModuleRecord, NetworkRecord

WIDTH, HEIGHT = 260, 46
"""Of a box, in pixels."""
GAP, LINE = 60, 14
"""Between columns, and between rows."""
CHARACTERS = 36
"""That fit into a box."""
FILL = {
    "hidden": "#e8f0fe",
    "imported": "#f3e8fd",
    "stitch": "#fce8f0",
    "output": "#e6f4ea",
    "network": "#fef7e0",
}


def lineage_svg(
    modules: Sequence[ModuleRecord],
    networks: Sequence[NetworkRecord],
    accuracies: Mapping[str, float],
) -> str:
    """An SVG picture of modules, of what each stands on, and of the networks that end in one.

    Args:
        modules: all that are drawn; one whose upstream is not among them stands at the left, one on
            several beside the farthest of them.
        networks: drawn beside their last module, if that is drawn.
        accuracies: by id of a module, where known.
    """
    known = {module.id: module for module in modules}

    @cache
    def farthest(module_id: str) -> tuple[int, str | None]:
        """The column of a module, and the last of what it stands on."""
        below = [one for one in known[module_id].spec.interface.stands_on if one in known]
        return max(((farthest(one)[0] + 1, one) for one in below), default=(0, None))

    above: dict[str | None, list[ModuleRecord]] = {}
    for module in modules:
        above.setdefault(farthest(module.id)[1], []).append(module)
    ending: dict[str, list[NetworkRecord]] = {}
    for network in networks:
        ending.setdefault(network.module_ids[-1], []).append(network)
    parts: list[str] = []
    places: dict[str, tuple[int, int]] = {}
    size = [0, 0]

    def place(column: int, row: int) -> tuple[int, int]:
        x, y = LINE + column * (WIDTH + GAP), LINE + row * (HEIGHT + LINE)
        size[:] = max(size[0], x + WIDTH + LINE), max(size[1], y + HEIGHT + LINE)
        return x, y

    def draw(module: ModuleRecord, column: int, row: int) -> int:
        """Draw a module and all that stands on it; the first row that is free below."""
        x, y = places[module.id] = place(column, row)
        accuracy = accuracies.get(module.id)
        more = "" if accuracy is None else f" · {100 * accuracy:.1f} %"
        parts.append(
            _box(x, y, module.kind, f"{module.name}/{module.version}", _facts(module) + more)
        )
        free = row
        for one in above.get(module.id, ()):
            parts.append(_line(x, y, *place(column + 1, free)))
            free = draw(one, column + 1, free)
        for network in ending.get(module.id, ()):
            there = place(column + 1, free)
            parts.append(_line(x, y, *there))
            parts.append(_box(*there, "network", network.name, f"network {network.short_id}"))
            free += 1
        return max(free, row + 1)

    row = 0
    for module in above.get(None, ()):
        row = draw(module, 0, row)
    for module in modules:
        for upstream in module.spec.interface.stands_on:
            if upstream in known and upstream != farthest(module.id)[1]:
                parts.append(_line(*places[upstream], *places[module.id]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{size[0]}" height="{size[1]}" '
        'font-family="sans-serif" font-size="12">\n'
        '<rect width="100%" height="100%" fill="white"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _facts(module: ModuleRecord) -> str:
    spec = module.spec
    what = spec.hidden.objective.name if spec.kind == "hidden" else spec.kind
    if spec.kind == "hidden" and spec.source is not None:
        what += f" from {spec.source}"
    return f"{module.short_id[:8]} · {what}"


def _box(x: int, y: int, kind: str, title: str, below: str) -> str:
    def text(line: str, height: int, weight: str) -> str:
        shown = line if len(line) <= CHARACTERS else f"{line[: CHARACTERS - 1]}…"
        return (
            f'<text x="{x + 10}" y="{y + height}" font-weight="{weight}">{escape(shown)}'
            f"<title>{escape(line)}</title></text>"
        )

    return (
        f'<rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="{FILL[kind]}" '
        f'stroke="#5f6368"/>{text(title, 19, "bold")}{text(below, 36, "normal")}'
    )


def _line(x: int, y: int, to_x: int, to_y: int) -> str:
    """From the right of a box to the left of another one."""
    start, end = (x + WIDTH, y + HEIGHT // 2), (to_x, to_y + HEIGHT // 2)
    middle = (start[0] + end[0]) // 2
    return (
        f'<path d="M {start[0]} {start[1]} C {middle} {start[1]}, {middle} {end[1]}, {end[0]} '
        f'{end[1]}" fill="none" stroke="#5f6368"/>'
    )
