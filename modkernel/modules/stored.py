"""The stored form of a module: `weights.safetensors` and `spec.json`, and nothing that can run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from modkernel.backbones import build_skeleton
from modkernel.errors import ArtifactError, InterfaceError
from modkernel.lookup import check_trusted
from modkernel.modules.output import OutputModule
from modkernel.modules.stitch import stitch_skeleton
from modkernel.spec import FORMAT_VERSION, AnyHiddenSpec, ModuleSpec, Shape, parse_module_spec
from modkernel.system.files import hash_file, write_new, written_whole

WEIGHTS_FILE = "weights.safetensors"
SPEC_FILE = "spec.json"
_FETCH_AGAIN = "Fetch or train the module again."


@dataclass(frozen=True)
class StoredModule:
    """A module's files in a folder, as they were when they were written or last checked.

    Attributes:
        id: `module_id(weights_sha256, spec_sha256)`.
        spec: The content of `spec.json`.
        folder: Where the two files are.
        weights_sha256: Of `weights.safetensors`, 64 hexadecimal digits.
        spec_sha256: Of `spec.json`, which is the recipe digest too.
    """

    id: str
    spec: ModuleSpec
    folder: Path
    weights_sha256: str
    spec_sha256: str


def module_id(weights_sha256: str, spec_sha256: str) -> str:
    """A module's id: SHA-256 over both digests, as 64 hexadecimal digits.

    The spec names the upstream's id, so ids chain as commits do.
    """
    return hashlib.sha256(f"{weights_sha256} {spec_sha256}".encode()).hexdigest()


def write_module(folder: Path, spec: ModuleSpec, weights: Mapping[str, Tensor]) -> StoredModule:
    """Write a module so that its folder appears complete or not at all.

    Equal specs and weights give equal bytes, whatever device and memory layout the weights had.
    Writing what is already there changes nothing.

    Args:
        folder: Does not exist yet, is empty, or holds this very module.
        spec: Describes the module.
        weights: Its state dict, buffers included.

    Raises:
        ArtifactError: the folder holds something else, or cannot be written.
    """
    weights_bytes = save({name: _plain(weights[name]) for name in sorted(weights)})
    spec_bytes = spec.canonical_json().encode()
    digests = _sha256(weights_bytes), _sha256(spec_bytes)
    if folder.is_dir() and any(folder.iterdir()):
        return read_module(folder, *digests)
    try:
        with written_whole(folder, durable=True) as temporary:
            temporary.mkdir()
            write_new(temporary / WEIGHTS_FILE, weights_bytes)
            write_new(temporary / SPEC_FILE, spec_bytes)
    except OSError as error:
        raise ArtifactError(
            f"Cannot write a module to {folder}: {error.strerror or error}. "
            "Use a folder on a disk with room that you may write to."
        ) from error
    return StoredModule(module_id(*digests), spec, folder, *digests)


def read_module(
    folder: Path, weights_sha256: str | None = None, spec_sha256: str | None = None
) -> StoredModule:
    """Read a module's spec and check both files, against the digests where they are given.

    Raises:
        ArtifactError: a file is missing, unreadable or altered, the weights are not safetensors,
            or the spec is not one of this version; the message names the file.
    """
    spec_path, weights_path = folder / SPEC_FILE, folder / WEIGHTS_FILE
    spec_bytes = _read(spec_path)
    found_spec = _sha256(spec_bytes)
    _require_digest(spec_path, found_spec, spec_sha256)
    found_weights = _sha256_of_file(weights_path)
    _require_digest(weights_path, found_weights, weights_sha256)
    spec = _parse_spec(spec_path, spec_bytes)
    try:
        with safe_open(weights_path, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise _not_safetensors(weights_path, error) from error
    return StoredModule(
        module_id(found_weights, found_spec), spec, folder, found_weights, found_spec
    )


def build_module(stored: StoredModule) -> nn.Module:
    """Build a stored module with its weights: on the CPU, in eval mode, without gradients.

    The bytes that are loaded are the bytes that are checked. A user's own backbone is imported
    within `modkernel.lookup.trusting` alone.

    Returns:
        A sequence of blocks for a hidden module, a `Stitch` for a stitch, an `OutputModule` for an
        output module.

    Raises:
        ArtifactError: the weights are missing or altered, or are not those of the module that the
            spec describes.
        SpecError: the backbone or kernel cannot be made here, such as a user's own that is not
            trusted or not importable.
    """
    check_spec_trusted(stored.id, stored.spec)
    path = stored.folder / WEIGHTS_FILE
    content = _read(path)
    with ThreadPoolExecutor(max_workers=1) as other:
        digest = other.submit(_sha256, content)  # It frees the interpreter: both take as long.
        skeleton = _skeleton(stored)
        _require_digest(path, digest.result(), stored.weights_sha256)
    weights = _parse_weights(path, content)
    module, gives = skeleton or _output_module(stored, weights.get("centres"))
    _require_fit(stored, module.state_dict(), weights)
    promised = stored.spec.interface.gives
    if gives != promised:
        raise ArtifactError(
            f"The module in {stored.folder} gives {list(gives)}, but its spec says "
            f"{list(promised)}: use the backbone code that it was trained with."
        )
    module.load_state_dict(weights, strict=True, assign=True)
    return module.eval().requires_grad_(False)


def stored_weights(stored: StoredModule) -> dict[str, Tensor]:
    """A stored module's tensors on the CPU, without building it: no code of its own is run.

    Raises:
        ArtifactError: they are missing or altered.
    """
    path = stored.folder / WEIGHTS_FILE
    content = _read(path)
    _require_digest(path, _sha256(content), stored.weights_sha256)
    return _parse_weights(path, content)


def check_spec_trusted(module_id: str, spec: ModuleSpec) -> None:
    """Check that the code that a stored module's spec names may be imported; nothing is.

    Raises:
        SpecError: it may not; see `modkernel.lookup.check_trusted`.
    """
    if spec.kind != "output":
        check_trusted(spec.backbone.name, f"The stored module {module_id[:12]} names backbone")


def hidden_skeleton(spec: AnyHiddenSpec) -> tuple[nn.Module, Shape]:
    """A hidden module without weights, on the meta device where it can be, and what it gives.

    Raises:
        SpecError: the backbone cannot be made here, such as a user's own that is not trusted.
        InterfaceError: it does not take what the spec says.
    """
    if spec.kind == "stitch":
        return stitch_skeleton(spec)
    return build_skeleton(spec.backbone, spec.blocks, spec.interface.takes)


def _skeleton(stored: StoredModule) -> tuple[nn.Module, Shape] | None:
    """The same of a stored module; none for an output module."""
    if stored.spec.kind == "output":
        return None
    try:
        return hidden_skeleton(stored.spec)
    except InterfaceError as error:
        raise _unbuildable(stored, error) from error


def _output_module(stored: StoredModule, centres: Tensor | None) -> tuple[nn.Module, Shape]:
    interface, classes = stored.spec.interface, len(stored.spec.classes or ())
    try:
        return OutputModule(interface.kernel, interface.takes, classes, centres), (classes,)
    except InterfaceError as error:
        raise _unbuildable(stored, error) from error


def _unbuildable(stored: StoredModule, error: InterfaceError) -> ArtifactError:
    return ArtifactError(
        f"{stored.folder} does not hold a module that can be built: {error} {_FETCH_AGAIN}"
    )


def _parse_weights(path: Path, content: bytes) -> dict[str, Tensor]:
    try:
        return load(content)
    except (SafetensorError, KeyError, ValueError) as error:  # KeyError: a type that torch lacks.
        raise _not_safetensors(path, error) from error


def _require_fit(
    stored: StoredModule, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]
) -> None:
    path = stored.folder / WEIGHTS_FILE
    missing, extra = expected.keys() - found.keys(), found.keys() - expected.keys()
    if missing or extra:
        raise ArtifactError(
            f"{path} does not hold the tensors of the module that its spec describes "
            f"(missing: {_few(missing)}; not expected: {_few(extra)}). {_FETCH_AGAIN}"
        )
    for name, tensor in expected.items():
        want, have = (f"{t.dtype} {list(t.shape)}" for t in (tensor, found[name]))
        if want != have:
            raise ArtifactError(f"{path}: '{name}' must be {want}, but is {have}. {_FETCH_AGAIN}")


def _parse_spec(path: Path, content: bytes) -> ModuleSpec:
    try:
        version = json.loads(content)["format"]
    # A RecursionError is what nesting thousands deep ends in.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not the spec of a module. {_FETCH_AGAIN}") from error
    if version != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has format version {version}, but this modkernel reads version "
            f"{FORMAT_VERSION}: use the modkernel that wrote it, or train the module again."
        )
    try:
        spec = parse_module_spec(content, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ArtifactError(
            f"{path} is not the spec of a module: {where}: {first['msg']}. {_FETCH_AGAIN}"
        ) from error
    if spec.digest() != _sha256(content):
        raise ArtifactError(f"{path} is not in the form that modkernel writes. {_FETCH_AGAIN}")
    return spec


def _require_digest(path: Path, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise ArtifactError(
            f"{path} differs from what was stored: its sha256 is {found[:12]}…, not "
            f"{expected[:12]}…. {_FETCH_AGAIN}"
        )


def _not_safetensors(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} is not a safetensors file: {error}. {_FETCH_AGAIN}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _sha256_of_file(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"Cannot read {path}: {error.strerror or error}. {_FETCH_AGAIN}")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()


def _few(names: set[str]) -> str:
    some = sorted(names)
    return (", ".join(some[:3]) + (", …" if len(some) > 3 else "")) or "none"
