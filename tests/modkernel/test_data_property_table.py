"""Tables of any columns, labels, form and damage: read as worked out by hand, told, or refused."""

from __future__ import annotations

import datetime
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from hypothesis import assume, event, given
from hypothesis import strategies as st
from pyarrow import csv, feather, parquet

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

COLUMNS = ("size", "count", "colour", "row", "name", "day", "nothing")
DAMAGES = ("empty", "cut", "text", "ragged", "latin")
DAY = datetime.date(2024, 1, 1)


@st.composite
def tables(draw: st.DrawFn) -> dict[str, Any]:
    chance = np.random.default_rng(draw(st.integers(0, 99)))
    rows = draw(mostly(60, 1, 5, 40))
    kinds = draw(st.lists(st.sampled_from(COLUMNS), unique=True, min_size=1))
    kinds = kinds if draw(mostly(True, False)) else ["row", "name"]
    holes = chance.random(rows) < draw(st.sampled_from([0, 0.2]))
    eighths = chance.integers(9, 99, rows)
    every = {
        "size": [None if hole else int(k) / 8 for k, hole in zip(eighths, holes, strict=True)],
        "count": [int(k) for k in chance.integers(0, 9, rows)],
        "colour": [("red", "blué", "a b")[k] for k in chance.integers(0, 3, rows)],
        "row": list(range(7, 7 + rows)),
        "name": [f"number {k}" for k in range(rows)],
        "day": [DAY + datetime.timedelta(int(k)) for k in chance.integers(0, 99, rows)],
        "nothing": [None] * rows,
    }
    places = chance.integers(0, draw(mostly(3, 1, 2)), rows)
    labels = {
        "text": [("Ant", "bée", "c,d")[k] for k in places],
        "number": [int(k) * 7 - 7 for k in places],
        "some": ["" if k == 2 else f"c{k}" for k in places],
        "fraction": [k + 0.5 for k in places],
    }[draw(mostly("text", "number", "some", "fraction"))]
    end = draw(st.sampled_from([".csv", ".tsv", ".parquet", ".feather"]))
    damage = draw(mostly("", *DAMAGES))
    if damage in ("ragged", "latin") and end not in (".csv", ".tsv"):
        damage = ""
    if damage == "cut" and end in (".csv", ".tsv"):
        damage = "ragged"  # Half a CSV file is a shorter one.
    return {
        "columns": {name: every[name] for name in COLUMNS if name in kinds},
        "labels": labels,
        "label": draw(mostly("species", None, "kind")),
        "unlabelled": draw(st.sampled_from([None, "-7"])),
        "end": end,
        "damage": damage,
    }


def write(made: dict[str, Any], path: Path) -> None:
    table = pa.table({**made["columns"], "species": made["labels"]})
    match made["end"]:
        case ".parquet":
            parquet.write_table(table, path)
        case ".feather":
            feather.write_feather(table, path)
        case end:
            options = csv.WriteOptions(delimiter="\t" if end == ".tsv" else ",")
            csv.write_csv(table, path, options)
    content = path.read_bytes()
    match made["damage"]:
        case "empty":
            content = b""
        case "cut":
            content = content[: len(content) // 2]
        case "text":
            content = b"<html>not found</html>"
        case "ragged":
            separator = b"\t" if made["end"] == ".tsv" else b","
            content += separator.join([b"1"] * 9) + b"\n"
        case "latin":
            content = content.decode().encode("latin-1")
    path.write_bytes(content)


def by_hand(made: dict[str, Any]) -> tuple[dict[str, Example], np.ndarray, int, list[str]]:
    """The examples by id, all rows encoded, how many columns are left out, why it is refused."""
    encoded: list[list[float]] = []
    left_out = 0
    for name, values in made["columns"].items():
        steps = {b - a for a, b in pairwise(values)} if name in ("count", "row") else set()
        if name == "size" and any(value is not None for value in values):
            encoded.append([np.nan if value is None else value for value in values])
        elif name in ("count", "row") and steps != {1}:
            encoded.append(values)
        elif name == "colour" and 2 * len(set(values)) <= len(values):
            encoded += [[float(value == each) for value in values] for each in sorted(set(values))]
        else:
            left_out += 1
    rows = np.array(encoded, np.float32).reshape(len(encoded), len(made["labels"])).T.copy()
    rows[np.isnan(rows)] = np.nan
    reasons = []
    if not encoded:
        reasons.append("no column is an input")
    if made["label"] != "species":
        reasons.append("no label column")
    if any(isinstance(label, float) for label in made["labels"]):
        reasons.append("labels with fractions")
    examples = {
        str(i): Example(row.tobytes(), str(label))
        for i, (row, label) in enumerate(zip(rows, made["labels"], strict=True))
        if str(label) not in ("", made["unlabelled"])
    }
    return examples, rows, left_out, reasons + reasons_to_refuse(examples, labelled=True)


@given(tables())
@SETTINGS
def test_any_table(made: dict[str, Any]) -> None:
    # With no label at all it is a set without labels.
    assume(any(str(label) not in ("", made["unlabelled"]) for label in made["labels"]))
    examples, rows, left_out, reasons = by_hand(made)
    assume(examples)  # Without any label they are read, for views: see test_view_data.
    text = "".join(map(str, [*made["labels"], *made["columns"].get("colour", ())]))
    if made["damage"] and (made["damage"] != "latin" or "é" in text):
        reasons.append("damaged")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / f"table{made['end']}"
        write(made, path)
        spec = DatasetSpec(
            name="table", path=str(path), label=made["label"], unlabelled=made["unlabelled"]
        )
        data = read(spec)
    event("refused" if reasons else "read")
    if isinstance(data, str):
        assert reasons, data
        return
    assert not reasons
    check_read(data, examples, labelled=True)
    assert told(data, "skipped") == left_out
    for split in (data.train, data.validation, data.test):
        expected = torch.from_numpy(rows[[int(name) for name in split.ids]])
        found = split.examples.batch(torch.arange(len(split)))
        assert torch.equal(found.nan_to_num(-1), expected.nan_to_num(-1))
    missing = len(made["labels"]) - len(examples)
    if missing:
        assert told(data, "unlabelled") == missing
