"""Bundles in a folder that several registries share, or that a web server shows: push and pull.

The folder has a file a bundle, named by its id, and `index.json`, which says what they are: that is
all a web server needs to hand out, and a person to look through.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from shutil import rmtree
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from pydantic import Field

from modkernel.errors import AmbiguousError, BundleError, NotFoundError
from modkernel.registry.bundles.archive import opened
from modkernel.registry.bundles.manifest import (
    LARGEST_BUNDLE,
    LARGEST_TEXT,
    SUFFIX,
    Manifest,
    Sha256,
    parse_json,
)
from modkernel.registry.bundles.signing import PrivateKey
from modkernel.registry.bundles.take_in import Imported, import_bundle
from modkernel.registry.bundles.write import export_bundle, resolve
from modkernel.registry.registry import Registry
from modkernel.registry.settings import without_secrets
from modkernel.registry.sql.queries import PREFIX
from modkernel.spec import Spec
from modkernel.system.files import hash_file, remove_abandoned, written_whole

INDEX = "index.json"
ON_THE_WEB = re.compile(r"https?://")
SECONDS = 60
"""That a web server may take for each answer, and for each piece of one."""
ABANDONED = 24 * 3600
"""Seconds since its last byte after which nobody writes a file: shares may have no locks."""
NAMED = 8
"""Names that an error lists; the others are counted."""


class Listed(Spec):
    """A bundle of a folder; its file is named by its id."""

    kind: Literal["module", "network"]
    name: str
    modules: tuple[Sha256, ...]
    data: str
    """The data set that its last module was trained on."""
    sha256: Sha256
    size: int = Field(ge=0, le=LARGEST_BUNDLE)
    pushed: datetime
    """UTC."""


class Index(Spec):
    """`index.json`: the bundles of a folder by id."""

    format: Literal[1] = 1
    bundles: dict[Sha256, Listed] = Field(default_factory=dict)


@dataclass(frozen=True)
class Pushed:
    """A bundle in a folder, and whether it is new there."""

    manifest: Manifest
    path: Path
    is_new: bool


def push(
    registry: Registry,
    reference: str,
    target: str,
    key: PrivateKey | None = None,
    umask: int | None = None,
) -> Pushed:
    """Put a module or a network into a folder of bundles; one that is there stays as it is.

    What a push left unfinished there that was killed a day ago is removed.

    Args:
        registry: has it.
        reference: a module's or a network's, as of `export_bundle`.
        target: the folder, made if there is none.
        key: signs the bundle.
        umask: of the files and folders that are made there; the process's if left out.

    Raises:
        NotFoundError, AmbiguousError: no module or network answers to it, or several do.
        ArtifactError: bytes are missing or altered in the registry.
        BundleError: the folder cannot be written to.
    """
    if ON_THE_WEB.match(target):
        raise BundleError(
            f"'{without_secrets(target)}' cannot be written to: push into the folder that the web "
            "server shows."
        )
    folder = Path(target).expanduser()
    identity = resolve(registry, reference).id
    path = folder / f"{identity}{SUFFIX}"
    for pattern in (f"*{SUFFIX}", INDEX):
        remove_abandoned(folder, pattern, ABANDONED)
    is_new = not path.exists()
    made = [one for one in (folder, *folder.parents) if not one.exists()]
    if is_new:
        export_bundle(registry, identity, path, key)
        _give_rights(path, 0o666, umask)
    for one in made:
        _give_rights(one, 0o777, umask)
    try:
        _index(folder, umask)
    except OSError as error:
        raise BundleError(
            f"{path.name} is in {folder}, but cannot be listed in {INDEX} there: "
            f"{error.strerror or error}. Have that file's owner push, which lists all that is "
            "there, or the folder's let you replace it: write to the folder, without a sticky bit."
        ) from error
    with opened(path) as archive:
        return Pushed(archive.manifest, path, is_new)


def pull(registry: Registry, reference: str, source: str) -> Imported:
    """Store a module or a network out of a folder of bundles, here or on a web server.

    Args:
        registry: stores it.
        reference: an id or at least 6 digits of it, or a name: of those, what was pushed last.
        source: the folder, or its http(s) address.

    Raises:
        NotFoundError, AmbiguousError: the folder has no such bundle, or several.
        BundleError: the folder or its index cannot be read, or as in `import_bundle`.
        SpecError, SettingsError, StoreError: as in `import_bundle`.
    """
    if ON_THE_WEB.match(source) and "@" in urlsplit(source).netloc:
        raise BundleError(
            "The address has a login in it, which would stand in logs and is not sent: fetch the "
            "folder's files with a program that logs in, and pull from that copy."
        )
    index = _read_index(source)
    identity = _find(index, reference, without_secrets(source))
    if not ON_THE_WEB.match(source):
        path = Path(source).expanduser() / f"{identity}{SUFFIX}"
        return import_bundle(registry, path, identity)
    listed = index.bundles[identity]
    folder = registry.settings.work_dir / listed.sha256
    # As the work of training: what a killed process leaves is swept away by the next flow.
    with registry.backends.wait_for_claim(listed.sha256).renewed():
        try:
            rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            path = folder / f"{identity}{SUFFIX}"
            _download(_address(source, path.name), path, listed)
            return import_bundle(registry, path, identity)
        finally:
            rmtree(folder, ignore_errors=True)


def _give_rights(path: Path, rights: int, umask: int | None) -> None:
    if umask is not None:
        with suppress(PermissionError):  # Some shares have rights of their own.
            path.chmod(rights & ~umask)


def _index(folder: Path, umask: int | None) -> None:
    """Write what is in a folder into its index, until nothing is missing there.

    Two that push at once need no lock: whoever writes last looks again.
    """
    while True:
        try:
            known = parse_json(Index, (folder / INDEX).read_bytes(), INDEX).bundles
        except (FileNotFoundError, PermissionError, BundleError):
            known = {}
        bundles = dict(_listed(folder, known))
        if bundles == known:
            return
        with written_whole(folder / INDEX) as temporary:
            temporary.write_bytes(Index(bundles=bundles).canonical_json().encode())
            _give_rights(temporary, 0o666, umask)


def _listed(folder: Path, known: dict[str, Listed]) -> Iterator[tuple[str, Listed]]:
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        facts = path.stat()
        pushed = datetime.fromtimestamp(int(facts.st_mtime), UTC)
        old = known.get(path.stem)
        if old is not None and (old.size, old.pushed) == (facts.st_size, pushed):
            yield path.stem, old
            continue
        try:
            with opened(path) as archive:
                manifest = archive.manifest
                data = archive.last_spec().dataset.name
        except BundleError:  # Of somebody else's, or cut off: whoever pulls it is told.
            continue
        if manifest.id == path.stem:
            yield (
                path.stem,
                Listed(
                    kind="module" if manifest.network is None else "network",
                    name=manifest.name,
                    modules=tuple(module.id for module in manifest.modules),
                    data=data,
                    sha256=hash_file(path),
                    size=facts.st_size,
                    pushed=pushed,
                ),
            )


def _read_index(source: str) -> Index:
    if not ON_THE_WEB.match(source):
        path = Path(source).expanduser() / INDEX
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(
                f"Cannot read {path}: {error.strerror or error}. Name a folder that 'modkernel "
                "push' wrote to, or its http(s) address."
            ) from error
    else:
        content = b""
        with _answer(_address(source, INDEX)) as pieces:
            for piece in pieces:
                content += piece
                if len(content) > LARGEST_TEXT:
                    raise BundleError(f"{INDEX} has more than {LARGEST_TEXT} bytes: it is none.")
    return parse_json(Index, content, INDEX)


def _find(index: Index, reference: str, source: str) -> str:
    """The id of the bundle that a reference names."""
    named = {key: one for key, one in index.bundles.items() if one.name == reference}
    if named:
        return max(named, key=lambda key: (named[key].pushed, key))
    found = [key for key in index.bundles if key.startswith(reference)]
    if PREFIX.fullmatch(reference) and len(found) == 1:
        return found[0]
    if PREFIX.fullmatch(reference) and found:
        shown = ", ".join(key[:12] for key in found[:3])
        raise AmbiguousError(
            f"'{reference}' begins the ids of several bundles ({shown}…): write more digits."
        )
    names = sorted({one.name for one in index.bundles.values()})
    more = f" and {len(names) - NAMED} more" * (len(names) > NAMED)
    has = f"has {', '.join(map(repr, names[:NAMED]))}{more}" if names else "is empty"
    raise NotFoundError(
        f"No bundle in {source} answers to '{reference}', which {has}: write a name, or an id or "
        "at least 6 digits of it."
    )


def _address(source: str, name: str) -> str:
    return f"{source.rstrip('/')}/{name}"


def _download(address: str, path: Path, listed: Listed) -> None:
    """Bring a bundle here, with the size and the hash that the index says.

    Raises:
        BundleError: it is another, or cannot be had whole.
    """
    digest, size = hashlib.sha256(), 0
    try:
        with _answer(address, listed.size) as pieces, path.open("xb") as file:
            for piece in pieces:
                size += len(piece)
                if size > listed.size:
                    break
                digest.update(piece)
                file.write(piece)
    except OSError as error:
        raise BundleError(
            f"Cannot write {path}: {error.strerror or error}. Make room there."
        ) from error
    if size != listed.size or digest.hexdigest() != listed.sha256:
        raise BundleError(
            f"{without_secrets(address)} is another file than {INDEX} says: pull again, or have it "
            "pushed again."
        )


@contextmanager
def _answer(address: str, size: int | None = None) -> Iterator[Iterator[bytes]]:
    """What a web server answers, in pieces; of `size` bytes where the server does not say."""
    shown = without_secrets(address)
    try:
        answer = urlopen(address, timeout=SECONDS)
    except (OSError, ValueError, HTTPException) as error:
        what = str(error)
        if isinstance(error, HTTPError):
            what = f"{error.code} {error.reason}"
            error.close()
        raise BundleError(
            f"Cannot get {shown}: {what}. Check the address, and that 'modkernel push' wrote to "
            "that folder."
        ) from error
    with answer:

        def pieces() -> Iterator[bytes]:
            came = 0
            try:
                while piece := answer.read(1 << 20):
                    came += len(piece)
                    yield piece
            except (OSError, HTTPException) as error:
                raise BundleError(f"{shown} broke off: {error}. Try again.") from error
            # A connection that is closed too soon ends such a read like any other.
            rest = getattr(answer, "length", None)
            whole = size if rest is None else came + rest
            if whole is not None and came < whole:
                raise BundleError(f"{shown} broke off after {came} of {whole} bytes. Try again.")

        yield pieces()
