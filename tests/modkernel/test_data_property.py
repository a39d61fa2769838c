"""Folders and archives of any layout, type, size, label and damage: read, told or refused."""

from __future__ import annotations

import tempfile
import unicodedata
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from modkernel.data import DataPlaces, Dataset, load_dataset
from modkernel.errors import ModkernelError
from modkernel.spec import DatasetSpec

SETTINGS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
NAMES = ("cat", "Dog", "café", "cafe\u0301", "a b", "$x$", "<i>", "0", "日本", "-1")
IGNORED = (".hidden.png", "Thumbs.db", ".DS_Store", "desktop.ini")
MODES = ("RGB", "L", "1", "P", "RGBA", "LA", "I;16", "CMYK")


def read(spec: DatasetSpec, cache: Path) -> Dataset | None:
    """The data set; None where it is refused, by one sentence in one line."""
    try:
        return load_dataset(spec, DataPlaces(root=cache, cache=cache, download=False))
    except ModkernelError as error:
        refusal = error
    assert len(str(refusal).strip().splitlines()) == 1
    event(f"refused: {type(refusal).__name__}")
    return None


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    """The usual value most times: one defect alone shows more than many at once."""
    return st.integers(0, 5).flatmap(lambda k: st.just(usual) if k else st.sampled_from(others))


def class_of(data: Dataset) -> dict[str, str | None]:
    """The class that each example was read with, by its id; each is in one part alone."""
    found: dict[str, str | None] = {}
    for part in (data.train, data.validation, data.test):
        labels = [None] * len(part) if part.labels is None else part.labels.tolist()
        for name, label in zip(part.ids, labels, strict=True):
            assert name not in found
            found[name] = None if label is None else data.classes[label]
        assert len(part.examples) == len(part)
    return found


def told(data: Dataset, *kinds: str) -> int:
    return sum(finding.count for finding in data.findings if finding.kind in kinds)


# --- Folders


def picture(mode: str, size: tuple[int, int], number: int) -> bytes:
    """A picture of its own content as PNG or TIFF."""
    chance = np.random.default_rng(number)
    if mode == "I;16":
        image = Image.fromarray(chance.integers(0, 4096, size[::-1], dtype=np.uint16))
    else:
        pixels = chance.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        image = Image.fromarray(pixels).convert("RGBA" if mode in ("RGBA", "LA") else "RGB")
        image = image.convert(mode)
    buffer = BytesIO()
    image.save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "": lambda content: content,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "text": lambda content: b"<html>not found</html>",
    "flipped": lambda content: content[:30] + bytes(255 - b for b in content[30:60]) + content[60:],
}


@st.composite
def folders(draw: st.DrawFn) -> dict[str, Any]:
    layout = draw(st.sampled_from(["plain", "plain", "parts", "unlabelled"]))
    parts = [""]
    if layout == "parts":
        more = draw(st.lists(st.sampled_from(["val", "valid", "Test", "test"]), unique=True))
        parts = [draw(st.sampled_from(["train", "Train"])), *more]
    classes = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=3, unique=True))
    damage = draw(mostly("", *DAMAGES))
    counts = draw(mostly([25], [0, 25], [1, 3, 12], [12, 25]))
    files: dict[str, bytes] = {}
    number = 0
    sizes = draw(mostly([(6, 5)], [(6, 5), (9, 4)]))
    modes = draw(st.lists(st.sampled_from(MODES), min_size=1, max_size=3))
    for part in parts:
        for name in [""] if layout == "unlabelled" else classes:
            for _ in range(draw(st.sampled_from(counts))):
                mode, size = modes[number % len(modes)], sizes[number % len(sizes)]
                content = picture(mode, size, number)
                if number == 7:
                    content = DAMAGES[damage](content)
                end = ".tif" if mode == "CMYK" else draw(st.sampled_from([".png", ".PNG"]))
                files["/".join(filter(None, (part, name, f"{number}{end}")))] = content
                number += 1
            for other in draw(st.lists(st.sampled_from([*IGNORED, "a.txt", "b.mp4"]), unique=True)):
                files["/".join(filter(None, (part, name, other)))] = b"anything"
    fields = {"image_size": draw(st.sampled_from([None, 4, (5, 6)]))}
    return {"files": files, "fields": fields, "labelled": layout != "unlabelled"}


@given(folders())
@SETTINGS
def test_every_file_of_any_folder_is_read_told_or_refused(made: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) / "set"
        root.mkdir()
        for path, content in made["files"].items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        spec = DatasetSpec(name="image_folder", path=str(root), **made["fields"])
        data = read(spec, Path(temporary) / "cache")
        if data is None:
            return
        event("read")
        found = class_of(data)
        visible = {path for path in made["files"] if path.rsplit("/")[-1] not in IGNORED}
        composed = {unicodedata.normalize("NFC", path) for path in visible}
        assert {unicodedata.normalize("NFC", name) for name in found} <= composed
        assert len(found) + told(data, "skipped") == len(visible)
        for name, label in found.items():
            expected = name.split("/")[-2] if made["labelled"] else None
            assert label == (expected and unicodedata.normalize("NFC", expected))


# --- Archives


@st.composite
def archives(draw: st.DrawFn) -> dict[str, Any]:
    chance = np.random.default_rng(draw(st.integers(0, 99)))
    usual = draw(st.sampled_from([((4,), "float32"), ((6, 5, 3), "uint8")]))
    shape = draw(mostly(usual[0], (4,), (6, 5), (3, 6, 5), (6, 5, 2), ()))
    kind = draw(mostly(usual[1], "float64", "uint8", "int64", "uint16", "bool"))
    labels = draw(
        st.sampled_from(["int", "int", "text", "bytes", "latin", "float", "short", "none"])
    )
    classes = draw(mostly(3, 1, 2))
    damage = draw(mostly("", *DAMAGES))

    def part(count: int) -> tuple[np.ndarray, np.ndarray | None]:
        x = chance.integers(0, 200, (count, *shape)).astype(kind)
        if kind.startswith("float"):
            x.reshape(-1)[:1] = draw(mostly(0, np.nan))
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
        }
        return x, given[labels]

    arrays: dict[str, np.ndarray] = {}
    for end in ("", *draw(st.sampled_from([[], ["_test"]]))):
        x, y = part(draw(mostly(60, 1, 8, 40)))
        arrays[f"x{end}"] = x
        if y is not None:
            arrays[f"y{end}"] = y
    return {"arrays": arrays, "damage": damage, "packed": draw(st.booleans())}


@given(archives())
@SETTINGS
def test_every_row_of_any_archive_is_read_told_or_refused(made: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        path, arrays = Path(temporary) / "a.npz", made["arrays"]
        buffer = BytesIO()
        (np.savez_compressed if made["packed"] else np.savez)(buffer, **arrays)
        path.write_bytes(DAMAGES[made["damage"]](buffer.getvalue()))
        spec = DatasetSpec(name="arrays", path=str(path))
        data = read(spec, Path(temporary) / "cache")
        if data is None or made["damage"]:
            return  # What is damaged and still read has checksums of its own that were right.
        event("read")
        found = class_of(data)
        rows = len(arrays["x"]) + len(arrays.get("x_test", ()))
        assert len(found) + told(data, "unlabelled") == rows
        for name, label in found.items():
            key = "y_test" if name.startswith("test/") else "y"
            if key not in arrays:
                assert label is None
                continue
            value = arrays[key][int(name.rsplit("/")[-1])]
            assert label == (value.decode() if isinstance(value, bytes) else str(value))
