"""Folders and archives of any layout, type, size, label and damage.

What can be read is read: each example once, in its part, with its class. What cannot is refused,
and nothing else is; why not is worked out by hand.
"""

from __future__ import annotations

import tempfile
import unicodedata
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import assume, event, given
from hypothesis import strategies as st
from PIL import Image

from modkernel.spec import DatasetSpec
from tests.modkernel.helpers.by_hand import (
    SETTINGS,
    Example,
    check_read,
    mostly,
    read,
    reasons_to_refuse,
    told,
)

NAMES = ("cat", "Dog", "café", "cafe\u0301", "a b", "$x$", "<i>", "0", "日本", "-1", "Train")
IGNORED = (".hidden.png", "Thumbs.db", ".DS_Store", "desktop.ini")
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "I;16", "CMYK", "JPEG")
PARTS = {"val": "validation", "valid": "validation", "Test": "test", "test": "test"}


# --- Folders


def picture(mode: str, size: tuple[int, int], number: int) -> tuple[bytes, str]:
    """A picture of its own content, and how its file's name ends."""
    chance = np.random.default_rng(number)
    if mode == "I;16":
        image = Image.fromarray(chance.integers(0, 4096, size[::-1], dtype=np.uint16))
    else:
        pixels = chance.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
        image = image.convert("RGB" if mode == "JPEG" else mode)
    kind, end = {"CMYK": ("TIFF", ".tif"), "JPEG": ("JPEG", ".JFIF")}.get(mode, ("PNG", ".png"))
    buffer = BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue(), end


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "text": lambda content: b"<html>not found</html>",
    "flipped": lambda content: content[:30] + bytes(255 - b for b in content[30:60]) + content[60:],
    "one byte": lambda content: content[:70] + bytes([255 - content[70]]) + content[71:],
}


def opens(content: bytes) -> bool:
    """Whether the picture library itself can decode it."""
    try:
        with Image.open(BytesIO(content)) as image:
            image.load()
    except Exception:
        return False
    return True


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    layout = draw(st.sampled_from(["plain", "plain", "parts", "unlabelled"]))
    parts = [""]
    if layout == "parts":
        more = draw(st.lists(st.sampled_from(list(PARTS)), unique=True, max_size=2))
        parts = [draw(st.sampled_from(["train", "Train"])), *more]
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=3, unique=True))
    damage = draw(mostly("", *DAMAGES))
    damaged = draw(st.sampled_from([(7,), (3, 7), (0, 1, 2)]))
    counts = draw(mostly([25], [0, 25], [1, 3, 12], [12, 25]))
    sizes = draw(mostly([(6, 5)], [(6, 5), (9, 4)]))
    modes = draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=3))
    files: dict[str, bytes] = {}
    number = 0
    for part in parts:
        for name in [""] if layout == "unlabelled" else classes:
            for _ in range(draw(st.sampled_from(counts))):
                size = sizes[number % len(sizes)]
                content, end = picture(modes[number % len(modes)], size, number)
                content = DAMAGES[damage](content) if number in damaged else content
                files["/".join(filter(None, (part, name, f"{number}{end}")))] = content
                number += 1
            for other in draw(st.lists(st.sampled_from([*IGNORED, "a.txt", "b.mp4"]), unique=True)):
                files["/".join(filter(None, (part, name, other)))] = b"anything"
    if draw(st.booleans()):
        files["__MACOSX/cat/._0.png"] = b"anything"
    return {
        "files": files,
        "layout": layout,
        "limit": draw(st.sampled_from([None, 0])),
        "image_size": draw(st.sampled_from([None, 4, (5, 6)])),
    }


def composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def files_by_hand(made: dict[str, Any]) -> tuple[dict[str, Example], list[str], list[str]]:
    """The examples of a folder by their ids, the files that are skipped, and why it is refused."""
    labelled, split = made["layout"] != "unlabelled", made["layout"] == "parts"
    examples: dict[str, Example] = {}
    skipped, reasons, sizes = [], [], set()
    named: dict[str, str] = {}
    folder_of: dict[str, str] = {}
    images, entries = Counter[tuple[str, str]](), set()
    for path, content in made["files"].items():
        *folders, name = path.split("/")
        if folders[:1] == ["__MACOSX"]:
            continue
        part = PARTS.get(folders[0], "train") if split else "train"
        label = composed(folders[-1]) if labelled else None
        for depth in range(1, len(folders) + 1):
            entry = "/".join(folders[:depth])
            if named.setdefault(composed(entry), entry) != entry:
                reasons.append("two folders of one name")
        if split and folder_of.setdefault(part, folders[0]) != folders[0]:
            reasons.append("two folders of one part")
        entries.add((part, label))
        if name in IGNORED:
            continue
        if name in ("a.txt", "b.mp4"):
            skipped.append(path)
            continue
        images[part, label] += 1
        examples[composed(path)] = Example(content, label, part)
        if opens(content):
            with Image.open(BytesIO(content)) as image:
                sizes.add(image.size)
        else:
            reasons.append(f"damaged: {path}")
    for part, label in entries:
        if not images[part, label] and part == "train":
            reasons.append("a class without an image")
    for part in {part for part, _ in entries} | {"train"}:
        if not any(images[each] for each in entries if each[0] == part):
            reasons.append(f"no image in {part}")
    if len(sizes) > 1 and made["image_size"] is None:
        reasons.append("images of different sizes")
    return examples, skipped, reasons + reasons_to_refuse(examples, labelled)


@given(folders())
@SETTINGS
def test_any_folder(made: dict[str, Any]) -> None:
    # One folder of that name, and no other, is the training part of a set without labels.
    assume(made["layout"] != "plain" or {path.split("/")[0] for path in made["files"]} != {"Train"})
    examples, skipped, reasons = files_by_hand(made)
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "set"
        root.mkdir()
        for path, content in made["files"].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        spec = DatasetSpec(name="image_folder", path=str(root), image_size=made["image_size"])
        data = read(spec, made["limit"])
    event("refused" if reasons else "read")
    if isinstance(data, str):
        assert reasons, data
        broken = [each.removeprefix("damaged: ") for each in reasons if each.startswith("damaged")]
        if len(broken) == len(reasons):
            assert all(path in data for path in broken)
        return
    assert not reasons
    check_read(data, examples, labelled=made["layout"] != "unlabelled")
    assert told(data, "skipped") == len(skipped)


# --- Archives


UNREAD = ("x_valid", "weights", "images")


@st.composite
def archives(draw: st.DrawFn) -> dict[str, Any]:
    chance = np.random.default_rng(draw(st.integers(0, 99)))
    usual = draw(st.sampled_from([((4,), "float32"), ((6, 5, 3), "uint8")]))
    shape = draw(mostly(usual[0], (4,), (6, 5), (3, 6, 5), (6, 5, 2), ()))
    kind = draw(mostly(usual[1], "float64", "uint8", "int64", "uint16", "bool"))
    labels = draw(mostly("int", "text", "bytes", "latin", "float", "short", "none", "below"))
    classes = draw(mostly(3, 1, 2))
    odd = draw(mostly(0, np.nan, np.inf))
    same = draw(mostly(False, True))

    def part(count: int) -> tuple[np.ndarray, np.ndarray | None]:
        x = chance.integers(0, 200, (count, *shape)).astype(kind)
        if same:
            x[:] = x[0]
        if kind.startswith("float"):
            x.reshape(-1)[:1] = odd
        y = chance.integers(0, classes, count)
        names = np.array(["ant", "bée", "c d"])[y]
        given = {
            "int": y * 7,
            "text": names,
            "bytes": np.char.encode(names, "utf-8"),
            "latin": np.char.encode(names, "latin-1"),
            "float": y / 2,
            "short": y[:-1],
            "none": None,
            "below": y - 1,
        }
        return x, given[labels]

    arrays: dict[str, np.ndarray] = {}
    for end in ("", *draw(st.sampled_from([[], ["_test"], ["_val"], ["_val", "_test"]]))):
        x, y = part(draw(mostly(60, 1, 8, 40)))
        arrays[f"x{end}"] = x
        if y is not None:
            arrays[f"y{end}"] = y
    without = draw(mostly(None, "x", "x_val", "y_val", "y_test"))
    arrays.pop(without, None)
    unread = draw(st.lists(st.sampled_from(UNREAD), unique=True))
    return {
        "arrays": arrays | {name: np.arange(3) for name in unread},
        "unread": unread,
        "damage": draw(mostly("", *DAMAGES)),
        "packed": draw(st.booleans()),
        "unlabelled": draw(st.sampled_from([None, "-1"])),
    }


def rows_as_read(x: np.ndarray) -> list[bytes]:
    """The bytes of each row in the form that examples have, and none for what has no such form."""
    if x.ndim == 2:
        rows = x.astype(np.float32)
        rows[np.isnan(rows)] = np.nan
        return [] if np.isinf(rows).any() else [row.tobytes() for row in rows]
    if x.ndim == 4 and x.shape[1] not in (1, 3):
        x = x.transpose(0, 3, 1, 2)
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[1] not in (1, 3)):
        return []
    if not np.isfinite(x.astype(float)).all():
        return []
    pixels = (x * np.uint8(255) if x.dtype == bool else x).astype(np.uint8)
    return [row.tobytes() for row in pixels]


def labels_as_read(y: np.ndarray) -> list[str] | None:
    """The class of each row, None if such labels name no class."""
    if y.dtype.kind == "f":
        return None
    try:
        return [each.decode() if isinstance(each, bytes) else str(each) for each in y.tolist()]
    except UnicodeDecodeError:
        return None


def rows_by_hand(made: dict[str, Any]) -> tuple[dict[str, Example], int, list[str]]:
    """The examples of an archive by their ids, how many have no label, and why it is refused."""
    arrays, unlabelled, reasons = made["arrays"], made["unlabelled"], []
    ends = {"": "train", "_val": "validation", "_test": "test"}
    there = {end: part for end, part in ends.items() if f"x{end}" in arrays}
    if "" not in there:
        reasons.append("no x")
    if any(f"y{end}" in arrays and end not in there for end in ends):
        reasons.append("labels of examples that are not there")
    if len({f"y{end}" in arrays for end in there}) > 1:
        reasons.append("labels of some parts alone")
    examples: dict[str, Example] = {}
    left_out = 0
    for end, part in there.items():
        contents = rows_as_read(arrays[f"x{end}"])
        labels: list[str] | None = [""] * len(contents)
        if f"y{end}" in arrays:
            labels = labels_as_read(arrays[f"y{end}"])
        if not contents or labels is None or len(labels) != len(arrays[f"x{end}"]):
            reasons.append(f"x or y of the {part} part has another form")
            continue
        for i, (content, label) in enumerate(zip(contents, labels, strict=True)):
            if f"y{end}" in arrays and label == unlabelled:
                left_out += 1
                continue
            name = str(i) if part == "train" else f"{end[1:]}/{i}"
            examples[name] = Example(content, label if f"y{end}" in arrays else None, part)
    return examples, left_out, reasons + reasons_to_refuse(examples, "y" in arrays)


@given(archives())
@SETTINGS
def test_any_archive(made: dict[str, Any]) -> None:
    examples, left_out, reasons = rows_by_hand(made)
    # Without any label they are read, for views: see test_view_data.
    assume(examples or not left_out)
    if made["damage"]:
        reasons.append("damaged")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / "a.npz"
        buffer = BytesIO()
        (np.savez_compressed if made["packed"] else np.savez)(buffer, **made["arrays"])
        path.write_bytes(DAMAGES[made["damage"]](buffer.getvalue()))
        spec = DatasetSpec(name="arrays", path=str(path), unlabelled=made["unlabelled"])
        data = read(spec)
    event("refused" if reasons else "read")
    if isinstance(data, str):
        assert reasons, data
        return
    assert not reasons
    check_read(data, examples, labelled="y" in made["arrays"])
    assert told(data, "unread") == len(made["unread"])
    if made["unlabelled"] is not None:
        assert told(data, "unlabelled") == left_out
    images = [made["arrays"][key] for key in ("x", "x_val", "x_test") if key in made["arrays"]]
    converted = [each for each in images if each.ndim > 2 and each.dtype != np.uint8]
    assert told(data, "range") == sum(map(len, converted))
