"""Folders that Hugging Face's `datasets` wrote with `save_to_disk`, read by pyarrow alone."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modkernel.data.arrays import check_memory, file_stamp, stamped_source
from modkernel.data.cache_files import locked, read_json
from modkernel.data.class_names import listed
from modkernel.data.findings import Finding
from modkernel.data.layout import ListedFile
from modkernel.data.own import PART_NAMES
from modkernel.data.places import DataPlaces
from modkernel.data.pool import FileList, Pool, Source
from modkernel.data.table_columns import Table, label_texts
from modkernel.data.tables import arrow_table, table_pool
from modkernel.errors import ClassError, DataError, SettingsError
from modkernel.spec import DatasetSpec
from modkernel.spec.shorthand import composed
from modkernel.system.files import written_whole

SUFFIXES = {b"\x89PNG": ".png", b"\xff\xd8\xff": ".jpg"}
"""Of unpacked images, by the bytes that they begin with; others have none."""


@dataclass(frozen=True)
class Part:
    """The folder of one part, its Arrow files, and what `datasets` says of its columns."""

    folder: Path
    files: tuple[Path, ...]
    features: Mapping[str, Mapping[str, Any]]


def open_huggingface(spec: DatasetSpec, where: DataPlaces) -> Source:
    """Find the folder at `spec.path` that `save_to_disk` wrote, of a Dataset or a DatasetDict.

    Raises:
        DataError: no such folder, or one of another layout.
    """
    if spec.path is None:
        raise DataError("Data set 'huggingface' needs a folder: set dataset.path.")
    root = Path(spec.path)
    splits = _json(root / "dataset_dict.json").get("splits") if _is_dict(root) else None
    if splits is None:
        parts, named, unread = {"train": _part(root)}, {"train": "train"}, list[str]()
    else:
        named = {str(split): PART_NAMES.get(str(split).lower(), "") for split in splits}
        for part in set(named.values()) - {""}:
            same = [split for split, meant in named.items() if meant == part]
            if len(same) > 1:
                raise DataError(
                    f"{root} has {' and '.join(map(repr, same))}, which name the same part: join "
                    "them or remove one."
                )
        parts = {part: _part(root / split) for split, part in named.items() if part}
        unread = [str(split) for split, part in named.items() if not part]
    if "train" not in parts:
        raise DataError(f"{root} has no part 'train': it has {listed(list(named))}.")
    files = [file for part in parts.values() for file in part.files]
    described = [part.folder / "dataset_info.json" for part in parts.values()]
    paths = [*files, *described, *(path for part in parts.values() for path in _named(part, root))]
    unpacked = where.cache / "unpacked" / file_stamp(*paths)
    return stamped_source(paths, partial(_pool, root, parts, unread, spec, unpacked))


def _pool(
    root: Path, parts: Mapping[str, Part], unread: list[str], spec: DatasetSpec, unpacked: Path
) -> Pool:
    tables = {}
    for name, part in parts.items():
        check_memory(part.folder, sum(file.stat().st_size for file in part.files))
        tables[name] = arrow_table(part.files, part.folder)
    features = parts["train"].features
    spec = spec.changed(label=spec.label or _label(features, root))
    images = [name for name, feature in features.items() if feature.get("_type") == "Image"]
    findings: tuple[Finding, ...] = ()
    if unread:
        text = f"{len(unread)} part(s) of {root} are not read: {listed(unread)}."
        findings = (Finding(kind="unread", text=text, count=len(unread)),)
    if len(images) > 1:
        raise DataError(f"{root} has more than one column of images: keep one of {listed(images)}.")
    tables = {name: _with_names(table, parts[name]) for name, table in tables.items()}
    if images:
        pool = _image_pool(root, tables, images[0], spec, unpacked)
    else:
        pool = table_pool(str(root), tables, spec)
    return replace(pool, findings=findings + pool.findings)


def _unpacked(
    root: Path, tables: Mapping[str, Table], column: str, unpacked: Path
) -> dict[str, list[Path]]:
    """The files of each part's images in the order of its rows; unpacked where one is missing."""
    files = _whole(unpacked, tables)
    if files is None:
        with locked(unpacked.with_name(f".{unpacked.name}.lock")):
            files = _whole(unpacked, tables)  # Perhaps by the process that held the lock.
            if files is None:
                _unpack_all(root, tables, column, unpacked)
                files = _whole(unpacked, tables)
    if files is None:
        raise SettingsError(
            f"Images of {root} are gone from {unpacked} as soon as they are unpacked: keep other "
            "programs out of the cache folder, or choose another."
        )
    return files


def _whole(unpacked: Path, tables: Mapping[str, Table]) -> dict[str, list[Path]] | None:
    """The files of each part in the order of its rows, which name them; None where one is gone."""
    found = {}
    for name, table in tables.items():
        try:
            there = sorted((unpacked / name).iterdir())
        except OSError:
            return None
        files = [file for file in there if not file.name.startswith(".")]
        if [file.stem for file in files] != [f"{row:09d}" for row in range(len(table))]:
            return None
        found[name] = files
    return found


def _unpack_all(root: Path, tables: Mapping[str, Table], column: str, unpacked: Path) -> None:
    try:
        if unpacked.exists():  # Whoever clears a cache may have left a part of it.
            shutil.rmtree(unpacked)
        with written_whole(unpacked) as folder:
            for name, table in tables.items():
                _unpack(table.column(column), folder / name, root)
    except OSError as error:
        raise SettingsError(
            f"Cannot unpack the images of {root} to {unpacked}: {error.strerror}. Choose a "
            "cache folder on a disk with room."
        ) from None


def _image_pool(
    root: Path, tables: Mapping[str, Table], column: str, spec: DatasetSpec, unpacked: Path
) -> Pool:
    """Images as files in the cache, so that they are read, streamed and refused as any others."""
    labels, names = {}, tuple[str, ...]()
    for name, table in tables.items():
        if spec.label not in table.column_names:
            raise DataError(
                f"{root} has no column '{spec.label}', the label column: set dataset.label to one "
                f"of {listed(table.column_names)}."
            )
        found = label_texts(table.column(spec.label), f"Column '{spec.label}' of {root}")
        labels[name] = found.texts
        names = found.classes if name == "train" else names
    place = {name: i for i, name in enumerate(names)} | {"": -1}
    unknown = {str(text) for texts in labels.values() for text in texts} - set(place)
    if unknown:
        raise ClassError(
            f"{root} has the label '{min(unknown)}' in another part than 'train', which has not: "
            "remove its examples there, or add some to 'train'."
        )
    files, rows = list[ListedFile](), {}
    for name, images in _unpacked(root, tables, column, unpacked).items():
        start = len(files)
        files += [_listed(image, unpacked) for image in images]
        rows[name] = torch.arange(start, len(files))
    others = [name for name in tables["train"].column_names if name not in (column, spec.label)]
    text = f"{len(others)} column(s) beside the images are not read: {listed(others)}."
    return Pool(
        classes=names,
        ids=[file.path for file in files],
        labels=torch.tensor([place[str(t)] for texts in labels.values() for t in texts]),
        examples=FileList(unpacked, tuple(files)),
        train=rows["train"],
        validation=rows.get("val"),
        test=rows.get("test"),
        findings=(Finding(kind="unread", text=text, count=len(others)),) if others else (),
    )


def _unpack(column: Any, folder: Path, root: Path) -> None:
    folder.mkdir(parents=True)
    row = 0
    for chunk in column.chunks:
        for image in chunk:
            found = image.as_py() or {}
            content = found.get("bytes")
            if content is None and found.get("path"):
                content = _read_named(root / found["path"], row, root)
            if content is None:
                raise DataError(f"Row {row} of {root} has no image: remove it.")
            suffix = next((s for mark, s in SUFFIXES.items() if content.startswith(mark)), "")
            (folder / f"{row:09d}{suffix}").write_bytes(content)
            row += 1


def _named(part: Part, root: Path) -> list[Path]:
    """The files of images that a part's Arrow files name and do not hold; no image is read.

    There are none where an Arrow file is damaged, or pyarrow missing: whoever reads it says so.
    """
    try:
        import pyarrow as pa
        from pyarrow import compute, ipc
    except ImportError:
        return []
    columns = [name for name, feature in part.features.items() if feature.get("_type") == "Image"]
    paths = list[Path]()
    try:
        for file in part.files if columns else ():
            with pa.memory_map(str(file)) as mapped, ipc.open_stream(mapped) as stream:
                for column in (batch.column(name) for batch in stream for name in columns):
                    column.validate()
                    content, names = (compute.struct_field(column, at) for at in ("bytes", "path"))
                    if content.null_count:
                        names.validate(full=True)
                        named = names.filter(compute.is_null(content)).drop_null().to_pylist()
                        paths += [root / name for name in named]
    except (OSError, KeyError, pa.ArrowException):
        return []
    return paths


def _read_named(path: Path, row: int, root: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"Row {row} of {root} names the image {path}, which cannot be read: {error.strerror}. "
            "Put it back, or remove the row."
        ) from None


def _listed(file: Path, root: Path) -> ListedFile:
    stat = file.stat()
    path = file.relative_to(root).as_posix()
    return ListedFile(path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _with_names(table: Table, part: Part) -> Table:
    """The table with the names of its classes in place of their numbers; -1 is none."""
    import pyarrow as pa

    for i, name in enumerate(table.column_names):
        feature = part.features.get(name, {})
        if feature.get("_type") != "ClassLabel":
            continue
        names = [composed(str(label)) for label in feature.get("names", ())]
        numbers = table.column(name).to_pylist()
        wrong = next((n for n in numbers if n is not None and n >= len(names)), None)
        if wrong is not None:
            raise DataError(
                f"Column '{name}' of {part.folder} has the label {wrong}, and names for "
                f"{len(names)} alone: correct its dataset_info.json."
            )
        texts = [None if n is None or n < 0 else names[n] for n in numbers]
        table = table.set_column(i, name, pa.array(texts, pa.string()))
    return table


def _label(features: Mapping[str, Mapping[str, Any]], root: Path) -> str:
    labels = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel"]
    if len(labels) != 1:
        raise DataError(
            f"{root} has {len(labels)} columns of type ClassLabel: set dataset.label to one of "
            f"{listed(labels or list(features))}."
        )
    return labels[0]


def _is_dict(root: Path) -> bool:
    if not root.is_dir():
        raise DataError(f"{root} is no folder: check dataset.path.")
    return (root / "dataset_dict.json").exists()


def _part(folder: Path) -> Part:
    state, info = _json(folder / "state.json"), _json(folder / "dataset_info.json")
    if any(key.startswith("_indices") and value for key, value in state.items()):
        raise DataError(
            f"{folder} was written by an old version of datasets, with a list of rows: load it and "
            "save it with a newer one."
        )
    try:
        files = tuple(folder / os.path.basename(file["filename"]) for file in state["_data_files"])
        features = {str(name): dict(feature) for name, feature in info["features"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        files, features = (), {}
    if not files or not features:
        raise DataError(f"{folder} names no files or no features: save the data set again.")
    return Part(folder, files, features)


def _json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(
            f"{path} is missing or damaged: dataset.path is the folder that datasets wrote with "
            "save_to_disk (of files as on the hub, load them and save them so)."
        )
    return content
