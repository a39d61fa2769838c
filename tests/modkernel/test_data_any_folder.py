"""Folders of any layout, types of file and damage: every file is read, told or refused by name."""

from __future__ import annotations

import io
import tempfile
import unicodedata
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from modkernel.data import load_dataset
from modkernel.errors import DataError, ImageError
from tests.modkernel.helpers.data_made import folder_spec, picture, places

GOOD = {
    "rgb.png": lambda seed: picture(seed),
    "grey.jpg": lambda seed: picture(seed, mode="L"),
    "photo.JFIF": lambda seed: picture(seed, (9, 7)),
    "alpha.png": lambda seed: picture(seed).convert("RGBA"),
    "one.gif": lambda seed: picture(seed),
    "deep.png": lambda seed: Image.fromarray(np.asarray(picture(seed, mode="L")) * np.uint16(7)),
}
BROKEN = {
    "empty.png": lambda content: b"",
    "text.jpg": lambda content: b"no image",
    "cut.png": lambda content: content[: len(content) // 2],
    "header.png": lambda content: b"\x89PNG\r\n\x1a\n" + content[30:],
}
UNREAD = ("notes.txt", "film.mp4", "raw.psd", "README")
IGNORED = ("Thumbs.db", ".DS_Store", "desktop.ini", ".hidden.png")
CLASSES = ("a", "b", unicodedata.normalize("NFD", "é"), "Train", "x y")
FORMATS = {".jpg": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".gif": "GIF"}
REASONS = (
    *("holds no images", "At least two classes", "of the training part", "are equal"),
    *("is in the training part", "does not: it must have folders", "own validation part"),
)
"""Of refusing a folder whose files are whole: what a class, a part or the split lacks."""

files = st.lists(st.sampled_from((*GOOD, *GOOD, *GOOD, *UNREAD, *IGNORED)), min_size=2, max_size=12)
damage = st.one_of(
    st.just([]), st.just([]), st.lists(st.sampled_from(tuple(BROKEN)), min_size=1, max_size=3)
)
part = st.dictionaries(st.sampled_from(CLASSES), files, min_size=2, max_size=4)
layouts = st.one_of(
    st.fixed_dictionaries({"": part}),
    st.fixed_dictionaries(
        {"Train": part}, optional={"valid": part, "test": part, "__MACOSX": part}
    ),
)


def content_of(kind: str, seed: int) -> bytes:
    buffer = io.BytesIO()
    image = GOOD[kind](seed)
    image.save(buffer, FORMATS[Path(kind).suffix.lower()])
    return buffer.getvalue()


@settings(max_examples=60, deadline=None)
@given(layout=layouts, broken=damage, limit=st.sampled_from([None, 0]))
def test_every_file_is_read_told_or_refused(layout, broken, limit):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "set"
        good: dict[str, str] = {}
        unread = seed = 0
        for part_name, classes in layout.items():
            for name, kinds in classes.items():
                place = root / part_name / name
                place.mkdir(parents=True)
                for kind in kinds:
                    seed += 1
                    path = place / (kind if kind in IGNORED else f"{seed}{kind}")
                    path.write_bytes(content_of(kind, seed) if kind in GOOD else b"x")
                    if part_name == "__MACOSX":
                        continue
                    if kind in GOOD:
                        written = path.relative_to(root).as_posix()
                        good[unicodedata.normalize("NFC", written)] = name
                    unread += kind in UNREAD
        first = next(iter(next(iter(layout.items()))[1]))
        bad = []
        for i, kind in enumerate(broken):
            path = root / next(iter(layout)) / first / f"z{i}{kind}"
            path.write_bytes(BROKEN[kind](content_of("rgb.png", 7)))
            bad.append(str(path))
        spec = folder_spec(root, image_size=8)
        refused = None
        try:
            data = load_dataset(spec, places(Path(folder)), limit)
        except DataError as error:
            refused = error
        if isinstance(refused, ImageError):
            assert bad
            assert all(path in str(refused) for path in bad)
            return
        if refused is not None:
            assert any(reason in str(refused) for reason in REASONS), refused
            return
        assert not bad
        found: dict[str, str] = {}
        for split in (data.train, data.validation, data.test):
            assert split.labels is not None
            found |= {
                name: data.classes[label]
                for name, label in zip(split.ids, split.labels.tolist(), strict=True)
            }
        assert found == {name: unicodedata.normalize("NFC", label) for name, label in good.items()}
        assert sum(f.count for f in data.findings if f.kind == "skipped") == unread
