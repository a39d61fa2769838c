"""A bundle's zip, which anybody may have written: only what is as we write it is unpacked."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from modkernel.errors import BundleError
from modkernel.modules.stored import SPEC_FILE
from modkernel.registry.bundles.manifest import (
    LARGEST_BUNDLE,
    MANIFEST,
    MOST_FILES,
    SIGNATURE,
    Manifest,
    folder_of,
    largest,
    parse_json,
    parse_manifest,
)
from modkernel.registry.bundles.signing import Signature
from modkernel.spec import ModuleSpec, parse_module_spec

AGAIN = "Have it sent or exported again."
_LARGEST_DIRECTORY = MOST_FILES * 512
"""Bytes of a zip's table of contents, which is read as a whole."""
_END, _END_64 = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q")
_LOCATOR_64 = 20
"""Bytes between the two ends of a zip of more than 4 GiB."""
_LONGEST_NAME = 80
"""Signs of a file's name that a message quotes, quotes included."""
_BROKEN = (zipfile.BadZipFile, EOFError, ValueError, struct.error, NotImplementedError)
"""What a zip raises that was cut off, altered or written to confuse."""


@dataclass(frozen=True)
class Archive:
    """An open bundle, of which nothing but the manifest was read."""

    zip: zipfile.ZipFile
    manifest: Manifest
    manifest_bytes: bytes
    signature: Signature | None

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest, which has that of every file."""
        return hashlib.sha256(self.manifest_bytes).hexdigest()

    def last_spec(self) -> ModuleSpec:
        """The spec of the last module, which nobody has checked further.

        Raises:
            BundleError: it is none.
        """
        name = f"{folder_of(self.manifest.modules[-1].id)}/{SPEC_FILE}"
        if name not in self.manifest.files:
            raise BundleError(f"The bundle has no {name}. {AGAIN}")
        try:
            return parse_module_spec(read(self.zip, name))
        except ValidationError as error:
            raise BundleError(f"{name} in the bundle is no module's spec. {AGAIN}") from error


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Open a bundle for a block.

    Raises:
        BundleError: it is none, or has files that a bundle does not have.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise BundleError(
            f"Cannot read {path}: {error.strerror or error}. Name a file that 'modkernel bundle "
            "export' wrote."
        ) from error
    with file:
        try:
            _check_end(file, path)
            archive = zipfile.ZipFile(file)
        except (*_BROKEN, OSError) as error:
            raise BundleError(f"{path} is no bundle, or a part of one: {error}. {AGAIN}") from error
        with archive:
            _check_entries(archive, file.seek(0, 2))
            content = read(archive, MANIFEST)
            signed = SIGNATURE in archive.namelist()
            manifest = parse_manifest(content)
            _check_listed(archive, manifest)
            signature = None
            if signed:
                signature = parse_json(Signature, read(archive, SIGNATURE), SIGNATURE)
            yield Archive(archive, manifest, content, signature)


def unpack(archive: Archive, folder: Path) -> None:
    """Write the files of a bundle into a folder of our own, each with the hash that it must have.

    Raises:
        BundleError: a file is another than the manifest says.
        OSError: they cannot be written.
    """
    for name, entry in archive.manifest.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        digest = hashlib.sha256()
        with path.open("xb") as target:
            for piece in _pieces(archive.zip, name):
                digest.update(piece)
                target.write(piece)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(
                f"{name} in the bundle is another than its manifest says: its sha256 is "
                f"{digest.hexdigest()[:12]}…, not {entry.sha256[:12]}…. {AGAIN}"
            )


def read(archive: zipfile.ZipFile, name: str) -> bytes:
    """A small file of a bundle.

    Raises:
        BundleError: it is damaged.
    """
    return b"".join(_pieces(archive, name))


def _pieces(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    try:
        with archive.open(name) as source:
            while piece := source.read(1 << 20):
                yield piece
    except (*_BROKEN, OSError, RuntimeError) as error:
        raise BundleError(f"{name} in the bundle is damaged: {error}. {AGAIN}") from error


def _check_end(file: IO[bytes], path: Path) -> None:
    """Check where a zip's table of contents is said to be, before the whole of it is read."""
    size = file.seek(0, 2)
    if size > LARGEST_BUNDLE:
        raise _too_large(f"{path} has {size} bytes", LARGEST_BUNDLE)
    span = _END_64.size + _LOCATOR_64 + _END.size
    file.seek(max(0, size - span))
    tail = file.read(span)
    if len(tail) < _END.size or tail[-_END.size :][:4] != b"PK\x05\x06":
        raise zipfile.BadZipFile("it does not end as a zip does")
    *_, directory, _, _ = _END.unpack(tail[-_END.size :])
    if len(tail) == span and tail[: _END_64.size][:4] == b"PK\x06\x06":
        directory = max(directory, _END_64.unpack(tail[: _END_64.size])[-2])
    if directory > _LARGEST_DIRECTORY:
        raise _too_large(f"{path} has a table of contents of {directory} bytes", _LARGEST_DIRECTORY)


def _check_entries(archive: zipfile.ZipFile, size: int) -> None:
    """Check that all entries of a zip are as we write them: plain files under names of ours."""
    seen: set[str] = set()
    total = 0
    for info in archive.infolist():
        name = info.orig_filename
        most = largest(name)
        if most is None or info.filename != name:
            raise BundleError(
                f"The zip has a file {_quoted(name)}, and a bundle has none of that name: nothing "
                "of it is taken."
            )
        if name in seen:
            raise BundleError(f"The zip has {name} twice: nothing of it is taken.")
        seen.add(name)
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG):
            raise BundleError(f"{name} in the zip is a link or no plain file: nothing is taken.")
        stored = info.compress_type == zipfile.ZIP_STORED and info.compress_size == info.file_size
        if not stored or info.flag_bits:
            raise BundleError(
                f"{name} in the zip is compressed or encrypted, and a bundle's files are stored as "
                "they are: have it made by 'modkernel bundle export'."
            )
        if info.file_size > most:
            raise _too_large(f"{name} in the zip has {info.file_size} bytes", most)
        total += info.file_size
    # Of stored files that lie over one another there are more than the zip has room for.
    if total > size:
        raise BundleError(
            f"The zip says that it holds {total} bytes and has {size}: nothing of it is taken."
        )
    if MANIFEST not in seen:
        raise BundleError(f"The zip has no {MANIFEST}: it is no bundle.")


def _check_listed(archive: zipfile.ZipFile, manifest: Manifest) -> None:
    """Check that a zip has the files that its manifest names, and no others."""
    found = {info.filename: info.file_size for info in archive.infolist()}
    del found[MANIFEST]
    found.pop(SIGNATURE, None)
    named = {name: entry.size for name, entry in manifest.files.items()}
    if found != named:
        name = min(name for name in found | named if found.get(name) != named.get(name))
        raise BundleError(
            f"{_quoted(name)} is in the zip or in its manifest alone, or of another size: the "
            f"bundle is not whole. {AGAIN}"
        )


def _quoted(name: str) -> str:
    """A name that anybody may have made up: in quotes, and cut where it is long."""
    shown = name[:_LONGEST_NAME]
    while len(repr(shown)) > _LONGEST_NAME:  # Signs that are no print take several.
        shown = shown[:-1]
    return repr(shown if shown == name else f"{shown}…")


def _too_large(what: str, most: int) -> BundleError:
    return BundleError(f"{what}, and at most {most} are taken: it is no bundle of modkernel's.")
