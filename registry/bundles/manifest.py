"""What a bundle says of itself: `manifest.json`, the names of its files, and how large they may be.

A bundle is a zip of stored (not compressed) files: safetensors, JSON, pictures and the cards as
text. Equal contents give equal bytes: nothing in it tells of the registry that it came from.
"""

from __future__ import annotations

import json
import math
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from modkernel.data.places import is_data_name
from modkernel.errors import BundleError
from modkernel.modules.stored import SPEC_FILE, WEIGHTS_FILE
from modkernel.registry.modules import NAME
from modkernel.spec import DatasetSpec, Name, NetworkSpec, Spec, pairs_from
from modkernel.training.report import OutputEvaluation

M = TypeVar("M", bound=BaseModel)

FORMAT = 1
"""Version of the form of bundles."""
SUFFIX = ".mkb"
MANIFEST, SIGNATURE = "manifest.json", "signature.json"
REPORT, CARD = "report.json", "card.md"
NETWORK_FIGURES = "network/figures"
NEEDED = (WEIGHTS_FILE, SPEC_FILE, REPORT)
"""Files without which a module cannot be stored."""

MOST_FILES = 20_000
MOST_MODULES = 1_000
LARGEST_BUNDLE = 64 * 2**30
LARGEST_NUMBER = 2**64
"""A whole number of a bundle is less: databases and MLflow take no other."""
LARGEST_TEXT = 32 * 2**20
"""Bytes of a JSON file, a card or a picture: a thousand classes' confusions are a tenth of it."""
_SIZES = {
    re.compile(rf"modules/[0-9a-f]{{64}}/({SPEC_FILE}|{REPORT}|{CARD})"): LARGEST_TEXT,
    re.compile(r"modules/[0-9a-f]{64}/figures/[A-Za-z0-9_-]{1,100}\.png"): LARGEST_TEXT,
    re.compile(rf"{NETWORK_FIGURES}/[A-Za-z0-9_-]{{1,100}}\.png"): LARGEST_TEXT,
    re.compile(rf"modules/[0-9a-f]{{64}}/{WEIGHTS_FILE}"): LARGEST_BUNDLE,
    re.compile(r"modules/[0-9a-f]{64}/moments/[0-9A-Za-z_-]{1,128}\.safetensors"): LARGEST_BUNDLE,
    re.compile(r"examples/[0-9A-Za-z_-]{1,64}\.safetensors"): LARGEST_BUNDLE,
    re.compile(rf"{MANIFEST}|{SIGNATURE}"): LARGEST_TEXT,
}
"""Every name that a file of a bundle may have, and how many bytes it may be."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(Spec):
    """A file of a bundle."""

    sha256: Sha256
    size: int = Field(ge=0)


class ModuleEntry(Spec):
    """A module of a bundle, beside what its own files say."""

    id: Sha256
    name: str = Field(pattern=rf"^{NAME.pattern}$", max_length=200)
    dataset: DatasetSpec | None = None
    """What it was trained on. Its path is a name of data: a path is of one machine alone."""
    pairs: str | None = None
    """What it was trained on in place of labels: views, or a file of pairs as a name of data."""
    moments: dict[str, str | None] = Field(default_factory=dict)
    """By fingerprint of the data: the name of the data set, where it was told."""


class NetworkEntry(Spec):
    """A network of a bundle; its modules are the bundle's, in order."""

    id: Sha256
    name: Name
    spec: NetworkSpec | None = None
    """What it was trained from, with names of data in place of paths."""
    evaluation: OutputEvaluation | None = None


class Manifest(Spec):
    """All of a bundle: one chain of modules, first to last, and the network that it is of."""

    format: Literal[1] = 1
    modules: tuple[ModuleEntry, ...] = Field(min_length=1, max_length=MOST_MODULES)
    network: NetworkEntry | None = None
    files: dict[str, FileEntry] = Field(max_length=MOST_FILES)
    """All files but this one and the signature."""

    @property
    def id(self) -> str:
        """Of the network, else of the last module."""
        return self.modules[-1].id if self.network is None else self.network.id

    @property
    def name(self) -> str:
        """Of the network, else of the last module."""
        return self.modules[-1].name if self.network is None else self.network.name

    @property
    def what(self) -> str:
        """What the bundle is of, for people."""
        kind = "module" if self.network is None else "network"
        return f"{kind} {self.name} ({self.id[:12]})"


def folder_of(module_id: str) -> str:
    """Where a module's files are in a bundle."""
    return f"modules/{module_id}"


def largest(name: str) -> int | None:
    """Bytes that a file of a name may be at most; none where no file of a bundle has that name."""
    return next((size for form, size in _SIZES.items() if form.fullmatch(name)), None)


def parse_manifest(content: bytes) -> Manifest:
    """A manifest as it was written, with names of data for all paths.

    Raises:
        BundleError: it is none, or one of another format.
    """
    version = parse_format(content, MANIFEST)
    if version != FORMAT:
        raise BundleError(
            f"The bundle has format {version!r:.20}, but this modkernel reads format {FORMAT}: use "
            "the modkernel that wrote it, or a newer one."
        )
    manifest = parse_json(Manifest, content, MANIFEST)
    for module in manifest.modules:
        _require_names(module.dataset, module.pairs, module.name)
    spec = None if manifest.network is None else manifest.network.spec
    if spec is not None:
        _require_names(spec.dataset, spec.pairs, spec.name)
    return manifest


def parse_format(content: bytes, what: str) -> Any:
    """The format version that a JSON object names, if it is an object."""
    value = read_json(content, what)
    return value.get("format") if isinstance(value, dict) else None


def read_json(content: bytes, what: str) -> Any:
    """What a JSON text holds: numbers that can be stored, and each name once.

    Raises:
        BundleError: it is no such text, or nested too deeply.
    """

    def none(text: str) -> float:
        raise ValueError(f"{text[:20]} is no number")

    def number(text: str) -> float:
        return value if math.isfinite(value := float(text)) else none(text)

    def whole(text: str) -> int:
        if abs(value := int(text)) >= LARGEST_NUMBER:
            raise ValueError(f"{text[:20]}… is too large a number")
        return value

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            raise ValueError("a name is there twice")
        return found

    try:
        return json.loads(
            content,
            parse_constant=none,
            parse_float=number,
            parse_int=whole,
            object_pairs_hook=once,
        )
    # A RecursionError is what nesting thousands deep ends in.
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{what} cannot be read as JSON: {str(error)[:100]}. Have the bundle made again."
        ) from None


def parse_json(model: type[M], content: bytes, what: str) -> M:
    """A file of a bundle, or of a folder of bundles, as what it has to be.

    Args:
        model: what it has to be.
        content: the file's.
        what: names it, for the message.

    Raises:
        BundleError: it is something else, or has numbers that are none.
    """
    read_json(content, what)
    try:
        value: M = model.model_validate_json(content)
        return value
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))[:80]
        raise BundleError(
            f"{what} is not what modkernel writes: {where}: {first['msg']}. Have the bundle made "
            "again."
        ) from None


def _require_names(dataset: DatasetSpec | None, pairs: str | None, of: str) -> None:
    for path in (None if dataset is None else dataset.path, pairs_from(pairs).file):
        if path is not None and not is_data_name(path):
            raise BundleError(
                f"The data of {of} are at a path ({path!r:.60}), where a bundle has names of data "
                "alone: have it made by 'modkernel bundle export'."
            )
