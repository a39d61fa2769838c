"""How the image files of a set are read: chosen by the training images, and told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from modkernel.data.findings import Finding
from modkernel.data.images import FileFacts
from modkernel.data.pixels import FULL
from modkernel.spec import DatasetSpec, ImageReading

WHITE, BLACK, GREY = 255, 0, 128
"""Backgrounds that transparent images are laid on, the preferred one first."""
STANDS_OUT = 16.0
"""Grey levels that an image's visible pixels differ from a white background by, at least."""
SMALL_SHARE = 1 / 16
"""Share of the whole range that half of the images stay within, if some value is an outlier."""


def choose_reading(
    facts: Sequence[FileFacts], value_range: tuple[float, float] | None, background: int | None
) -> ImageReading:
    """How the images of a set are read: by its training images, unless the spec says how.

    Args:
        facts: of the training images.
        value_range: what the spec says.
        background: what the spec says.

    Returns:
        The range from the smallest to the largest value of grey images of more than eight bits;
        and white as background of transparent ones, unless some of them are nearly white: then
        black or grey, whichever they stand out from better.
    """
    ranges = [found.values for found in facts if found.values is not None]
    greys = np.array([found.visible for found in facts if found.visible is not None])
    if value_range is None and ranges:
        value_range = (min(low for low, _ in ranges), max(high for _, high in ranges))
    if background is None:
        contrast = {
            level: float(np.abs(greys - level).min(initial=WHITE)) for level in (WHITE, BLACK, GREY)
        }
        best = max(contrast, key=contrast.__getitem__)
        background = WHITE if contrast[WHITE] >= STANDS_OUT else best
    return ImageReading(value_range=value_range, background=background)


def reading_findings(
    reading: ImageReading, names: Sequence[str], facts: Sequence[FileFacts]
) -> tuple[Finding, ...]:
    """What a person should know of how the files of a set are read.

    Args:
        reading: how.
        names: of the files.
        facts: of each file.
    """
    return (
        *_transparent(reading, names, facts),
        *_wide(reading, names, facts),
        *_cut(names, facts),
    )


def resized_findings(
    spec: DatasetSpec, names: Sequence[str], facts: Sequence[FileFacts]
) -> tuple[Finding, ...]:
    """How many images have another size than the spec brings them to.

    Args:
        spec: says the size.
        names: of the files.
        facts: of each file.
    """
    sides = spec.side_lengths()
    if sides is None:
        return ()
    height, width = sides
    sizes = Counter((each.width, each.height) for each in facts)
    others = len(facts) - sizes.pop((width, height), 0)
    if not others:
        return ()
    (most, count), *_ = sizes.most_common(1)
    example = next(
        name for name, each in zip(names, facts, strict=True) if (each.width, each.height) == most
    )
    stretched = sum(n for (w, h), n in sizes.items() if w * height != h * width)
    text = (
        f"{others} of {len(facts)} images are resized to {width} x {height} pixels, {count} of "
        f"them from {most[0]} x {most[1]}, such as {example}."
    )
    if stretched:
        text += (
            f" {stretched} of them change their proportions: choose another dataset.image_size, "
            "or crop them, if that matters."
        )
    return (Finding(kind="resized", text=text, count=others),)


def _transparent(
    reading: ImageReading, names: Sequence[str], facts: Sequence[FileFacts]
) -> Iterator[Finding]:
    found = [name for name, each in zip(names, facts, strict=True) if each.visible is not None]
    if found:
        colour = {WHITE: "white", BLACK: "black", GREY: "grey"}.get(reading.background, "grey")
        yield Finding(
            kind="transparency",
            text=f"{len(found)} of {len(facts)} images have transparent pixels, such as "
            f"{found[0]}: they are laid on {colour} (grey level {reading.background}). Set "
            "dataset.background, 0 to 255, to lay them on another.",
            count=len(found),
        )


def _wide(
    reading: ImageReading, names: Sequence[str], facts: Sequence[FileFacts]
) -> Iterator[Finding]:
    wide = [(name, each.values) for name, each in zip(names, facts, strict=True) if each.values]
    if not wide:
        return
    # The training images have eight bits where no range was found.
    low, high = reading.value_range or FULL
    highest = np.array([values[1] for _, values in wide])
    rest = len(facts) - len(wide)
    text = (
        f"{len(wide)} of {len(facts)} images are grey with more than eight bits a pixel, such as "
        f"{wide[0][0]}: {low:g} becomes black and {high:g} white, what lies outside is cut off. "
        "Set dataset.value_range to other limits."
    )
    if rest:
        text += f" The other {rest} have eight bits and stay as they are."
    if np.median(highest) - low < SMALL_SHARE * (high - low):
        top = wide[int(highest.argmax())][0]
        text += (
            f" Half of them do not go beyond {np.median(highest):g}, and so become nearly black, "
            f"because of a few high values, as in {top}."
        )
    elif (black := highest - low < (high - low) / 256).any():
        text += (
            f" {int(black.sum())} of them do not reach the first grey level, and so become black "
            f"all over, such as {wide[int(black.argmax())][0]}: bring all images to one range."
        )
    yield Finding(kind="range", text=text, count=len(wide))


def _cut(names: Sequence[str], facts: Sequence[FileFacts]) -> Iterator[Finding]:
    found = [name for name, each in zip(names, facts, strict=True) if each.cut]
    if found:
        yield Finding(
            kind="range",
            text=f"{len(found)} of {len(facts)} images have sixteen bits a colour, such as "
            f"{found[0]}, of which the upper eight are read: images that use a small part of the "
            "range become nearly black. Save such images with eight bits.",
            count=len(found),
        )
