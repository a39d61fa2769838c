"""Bundles that somebody made up: each is refused with a sentence, and leaves no row and no file."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from modkernel.errors import BundleError, ModkernelError, SpecError
from modkernel.modules.stored import module_id
from modkernel.registry import Registry, Settings
from modkernel.registry.bundles.manifest import LARGEST_TEXT, MANIFEST, MOST_FILES, folder_of
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from modkernel.reuse.moments import ClassMoments, ModuleMoments
from modkernel.reuse.moments_file import read_moments, write_moments
from modkernel.spec import BackboneSpec, ModuleSpec, parse_module_spec
from modkernel.system.files import hash_file
from tests.registry.conftest import close_mlflow
from tests.registry.helpers.bundles import (
    add,
    contents,
    left_files,
    lie,
    manifest_of,
    rewrite,
    rows,
    write_raw,
)
from tests.registry.helpers.examples import write_example_moments
from tests.registry.helpers.stored_homes import copy_home


@dataclass(frozen=True)
class Good:
    """Two good bundles, of a network and of its first module, to alter."""

    network: Path
    module: Path


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Good:
    folder = tmp_path_factory.mktemp("good")
    copy_home(tmp_path_factory, "bundle", folder / "home")
    settings = Settings(home=folder / "home")
    with Registry.open(settings) as registry:
        export_bundle(registry, "net", folder / "net.mkb")
        export_bundle(registry, "net.hidden-1", folder / "module.mkb")
    close_mlflow(settings.mlflow_uri)
    return Good(folder / "net.mkb", folder / "module.mkb")


@pytest.fixture(scope="module")
def into(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """An empty registry."""
    settings = Settings(home=tmp_path_factory.mktemp("into") / "home")
    copy_home(tmp_path_factory, "empty", settings.home)
    with Registry.open(settings) as registry:
        yield registry
    close_mlflow(settings.mlflow_uri)


@pytest.fixture
def bad(good: Good, tmp_path: Path) -> Path:
    """A copy of the network's bundle, to alter."""
    return Path(shutil.copyfile(good.network, tmp_path / "bad.mkb"))


def altered(name: str, change: Callable[[bytes], bytes], honest: bool = True) -> Any:
    """Other bytes in the first file whose name ends so, with their hash in the manifest or not."""

    def change_file(bad: Path, good: Good) -> None:
        files = contents(bad)
        found = next(n for n in files if n.endswith(name))
        files[found] = change(files[found])
        if honest:
            rewrite(bad, files)
        else:
            write_raw(bad, files, manifest_of(bad).canonical_json().encode())

    return change_file


def manifest(change: Callable[[Any], Any]) -> Any:
    """Another manifest of the same files."""

    def change_manifest(bad: Path, good: Good) -> None:
        value = json.loads(manifest_of(bad).canonical_json())
        changed = change(value)
        content = changed if isinstance(changed, bytes) else json.dumps(changed or value).encode()
        write_raw(bad, contents(bad), content)

    return change_manifest


def forged(
    spec: Callable[[ModuleSpec], ModuleSpec] | None = None,
    weights: Callable[[bytes], bytes] | None = None,
) -> Any:
    """A bundle of one module whose id, hashes and report fit its altered files."""

    def change(bad: Path, good: Good) -> None:
        old = manifest_of(good.module)
        entry = old.modules[0]
        files = {name.rpartition("/")[2]: c for name, c in contents(good.module).items()}
        if spec is not None:
            changed = spec(parse_module_spec(files["spec.json"]))
            files["spec.json"] = changed.canonical_json().encode()
        if weights is not None:
            files["weights.safetensors"] = weights(files["weights.safetensors"])
        digests = [
            hashlib.sha256(files[name]).hexdigest() for name in ("weights.safetensors", "spec.json")
        ]
        report = json.loads(files["report.json"]) | {"recipe_digest": digests[1]}
        files["report.json"] = json.dumps(report).encode()
        identity = module_id(*digests)
        kept = {f"{folder_of(identity)}/{name}": files[name] for name in KEPT}
        shutil.copyfile(good.module, bad)
        made = json.loads(entry.canonical_json()) | {"id": identity, "moments": {}}
        rewrite(bad, kept, modules=[made])

    return change


KEPT = ("weights.safetensors", "spec.json", "report.json")


def test_what_is_altered_here_is_good_but_for_that(
    good: Good, bad: Path, registry: Registry
) -> None:
    forged()(bad, good)
    forged_module = import_bundle(registry, bad).modules[-1]
    assert forged_module.name == "net.hidden-1"
    shutil.copyfile(good.network, bad)
    rewrite(bad, contents(bad))
    assert len(import_bundle(registry, bad).new) >= 2


def test_data_named_as_a_folder_are_kept_in_the_artifact_folder(
    good: Good, bad: Path, registry: Registry
) -> None:
    before = set(registry.settings.home.iterdir())
    of_data(name="..")(bad, good)
    import_bundle(registry, bad)
    assert set(registry.settings.home.iterdir()) == before
    assert list(registry.settings.artifact_root.rglob("*.safetensors"))


def without_the_first_module(bad: Path, good: Good) -> None:
    old = manifest_of(bad)
    gone = folder_of(old.modules[0].id)
    files = {name: c for name, c in contents(bad).items() if not name.startswith((gone, "network"))}
    rewrite(bad, files, modules=json.loads(old.canonical_json())["modules"][1:], network=None)


def in_another_order(bad: Path, good: Good) -> None:
    value = json.loads(manifest_of(bad).canonical_json())
    write_raw(
        bad,
        contents(bad),
        json.dumps(value | {"modules": value["modules"][::-1]}).encode(),
    )


def moments_of_another_module(bad: Path, good: Good) -> None:
    files = contents(bad)
    name = next(name for name in files if "/moments/0" in name)
    write_example_moments(bad.with_name("moments"), "f" * 64)
    files[name] = bad.with_name("moments").read_bytes()
    rewrite(bad, files)


def moments(**changes: Callable[[ClassMoments], object]) -> Any:
    """Moments of which some fields are others, by what they were."""

    def change(bad: Path, good: Good) -> None:
        files, file = contents(bad), bad.with_name("moments")
        name = next(name for name in files if "/moments/0" in name)
        file.write_bytes(files[name])
        found = read_moments(file, hash_file(file))
        train, validation = (
            replace(part, **{field: other(part) for field, other in changes.items()})
            for part in (found.train, found.validation)
        )
        write_moments(file, ModuleMoments(found.module_id, train, validation, found.seconds))
        files[name] = file.read_bytes()
        rewrite(bad, files)

    return change


def indefinite(part: ClassMoments) -> torch.Tensor:
    """Second moments whose diagonals are as they were, and that some direction has less than 0."""
    products = part.products.clone()
    products[1, 0, 1] = products[1, 1, 0] = products[1].diagonal().max() * 2
    return products


def moments_of_no_class(bad: Path, good: Good) -> None:
    """A dimension of 100,000 costs nothing without classes, and its square 80 GB to unpack."""
    files, d = contents(bad), 100_000
    name = next(name for name in files if "/moments/0" in name)
    shapes = {"counts": (0,), "sums": (0, d), "squares": (0,), "fourths": (0,)}
    tensors = {
        f"{part}.{field}": torch.zeros(shape, dtype=torch.float64)
        for part in ("train", "validation")
        for field, shape in (shapes | {"products": (0, d * (d + 1) // 2)}).items()
    }
    module = name.split("/")[1]
    about = {"format": 1, "module_id": module, "fingerprint": "0" * 64, "classes": []}
    files[name] = save(tensors, {"moments": json.dumps(about)})
    rewrite(bad, files)


def twice(bad: Path, good: Good) -> None:
    with zipfile.ZipFile(bad, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(zipfile.ZipInfo(MANIFEST), b"{}")


def deflated(bad: Path, good: Good) -> None:
    files, first = contents(bad), manifest_of(bad).canonical_json()
    with zipfile.ZipFile(bad, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, first)
        for name in files:
            archive.writestr(name, bytes(2**20))


def of_a_large_directory(bad: Path, good: Good) -> None:
    content = bytearray(bad.read_bytes())
    struct.pack_into("<L", content, len(content) - 10, MOST_FILES * 512 + 1)
    bad.write_bytes(content)


def another_zip(bad: Path, good: Good) -> None:
    with zipfile.ZipFile(bad, "w") as archive:
        archive.writestr(SPEC, contents(good.module)[next(iter(contents(good.module)))])


SPEC = f"modules/{'a' * 64}/spec.json"


def cut_off(bad: Path, good: Good) -> None:
    content = bad.read_bytes()
    bad.write_bytes(content[: len(content) // 2])


def lying_header(content: bytes) -> bytes:
    """A tensor that is said to be longer than the file."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    name = next(key for key in header if key != "__metadata__")
    header[name]["data_offsets"][1] += 10**9
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def not_finite(content: bytes) -> bytes:
    tensors = load(content)
    name = next(name for name, tensor in tensors.items() if tensor.is_floating_point())
    tensors[name].view(-1)[0] = float("nan")
    return save(tensors)


def of_another_shape(content: bytes) -> bytes:
    return save({name: torch.zeros(2, 2) for name in load(content)})


def planted(spec: ModuleSpec) -> ModuleSpec:
    return spec.changed(backbone=BackboneSpec(name="planted_code.nets:build"))


def huge(spec: ModuleSpec) -> ModuleSpec:
    shape = (1, 100_000, 100_000)
    interface = spec.interface.changed(takes=shape, upstream=f"preprocessing-{'0' * 64}")
    return spec.changed(interface=interface)


def of_data(**changes: Any) -> Any:
    """A bundle of one module, whose data are otherwise named."""
    return forged(lambda spec: spec.changed(dataset=spec.dataset.changed(**changes)))


def trained_in(epoch: int) -> Any:
    """A report of one epoch of this number."""
    return altered("report.json", lambda c: re.sub(rb'"epoch":\d+', b'"epoch":%d' % epoch, c))


def evaluated(text: str) -> Callable[[Any], bytes]:
    """A manifest whose network has this as its accuracy."""

    def change(value: Any) -> bytes:
        value["network"]["evaluation"]["accuracy"] = 0.123456
        return json.dumps(value).replace("0.123456", text).encode()

    return change


def set_in(value: Any, *path: Any, to: Any) -> Any:
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = to
    return value


PICKLED = b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94."

HOSTILE: dict[str, tuple[Any, str]] = {
    "zip slip": (add("../../evil.json"), "none of that name"),
    "zip slip inside": (add("modules/../../evil.json"), "none of that name"),
    "absolute path": (add("/etc/cron.d/evil"), "none of that name"),
    "other separators": (add("modules\\..\\evil.json"), "none of that name"),
    "NUL in a name": (add("manifest.json\0.png"), "none of that name"),
    "control characters": (add("modules/\x1b[31m.json"), "none of that name"),
    "a folder": (add("modules/"), "none of that name"),
    "a symbolic link": (add(SPEC, b"/etc/passwd", stat.S_IFLNK | 0o777), "a link"),
    "a name twice": (twice, "twice"),
    "a pickle beside": (add(f"modules/{'a' * 64}/model.pkl", PICKLED), "none of that name"),
    "a file that is not listed": (add(SPEC, b"{}"), "in the zip or in its manifest alone"),
    "compressed bomb": (deflated, "compressed"),
    "encrypted": (lie("spec.json", flag_bits=1), "encrypted"),
    "claims more than it has": (
        lie("weights.safetensors", file_size=2**31, compress_size=2**31),
        "and has",
    ),
    "oversized JSON": (
        lie("report.json", file_size=LARGEST_TEXT + 1, compress_size=LARGEST_TEXT + 1),
        f"at most {LARGEST_TEXT}",
    ),
    "files on one another": (lie("objective.png", header_offset=0), "damaged"),
    "large table of contents": (of_a_large_directory, "table of contents"),
    "truncated": (cut_off, "no bundle, or a part of one"),
    "no zip": (lambda bad, good: bad.write_bytes(PICKLED * 100), "no bundle"),
    "empty": (lambda bad, good: bad.write_bytes(b""), "no bundle"),
    "another zip": (another_zip, "no manifest.json"),
    "newer format": (manifest(lambda value: value | {"format": 2}), "format 2"),
    "no format": (manifest(lambda value: [value]), "format None"),
    "deep nesting": (manifest(lambda value: b"[" * 100_000), "cannot be read as JSON"),
    "NaN in the manifest": (manifest(evaluated("NaN")), "NaN is no number"),
    "infinite number": (manifest(evaluated("1e999")), "no number"),
    "a name twice in JSON": (
        manifest(lambda value: json.dumps(value)[:-1].encode() + b', "format": 1}'),
        "there twice",
    ),
    "unknown field": (manifest(lambda value: value | {"run": "rm -rf"}), "run"),
    "path of data": (
        manifest(lambda v: set_in(v, "modules", 0, "dataset", "path", to="/etc/passwd")),
        "at a path",
    ),
    "name that MLflow reads otherwise": (
        manifest(lambda v: set_in(v, "modules", 0, "name", to="net' OR '1'='1")),
        "modules.0.name",
    ),
    "wrong hash": (
        altered("weights.safetensors", lambda c: c[:-1] + bytes([c[-1] ^ 1]), honest=False),
        "another than its manifest says",
    ),
    "right hash of wrong bytes": (
        altered("weights.safetensors", lambda c: c[:-1] + bytes([c[-1] ^ 1])),
        "was altered",
    ),
    "missing link": (without_the_first_module, "chain in the bundle is not whole"),
    "another order": (in_another_order, "chain in the bundle is not whole"),
    "a module named as the network": (
        manifest(lambda v: set_in(v, "modules", 0, "name", to=v["network"]["name"])),
        "a network and a module of one name",
    ),
    "network of other modules": (
        manifest(lambda v: set_in(v, "network", "id", to="f" * 64)),
        "not of the modules",
    ),
    "NaN in a report": (
        altered("report.json", lambda c: c.replace(b'"seconds":1.5', b'"seconds":NaN')),
        "NaN is no number",
    ),
    "an epoch that MLflow cannot store": (trained_in(2**31 + 1), "not between 1 and"),
    "an epoch before the first": (trained_in(-5), "not between 1 and"),
    "a number that nothing can store": (trained_in(10**30), "too large a number"),
    "report of another module": (
        altered("report.json", lambda c: c.replace(b'"recipe_digest":"', b'"recipe_digest":"0')),
        "report of another module",
    ),
    "no report": (
        lambda bad, good: rewrite(
            bad, {n: c for n, c in contents(bad).items() if not n.endswith("report.json")}
        ),
        "has no modules/.*report.json",
    ),
    "picture that is none": (altered("objective.png", lambda c: b"<svg onload=x>"), "no PNG"),
    "moments of another module": (moments_of_another_module, "or of something else"),
    "moments of no class": (moments_of_no_class, "or of something else"),
    "moments of another dimension": (
        moments(
            sums=lambda part: part.sums[:, :1].contiguous(),
            products=lambda part: part.products[:, :1, :1].contiguous(),
        ),
        "of 1 features, which is not what the module gives",
    ),
    "negative counts": (moments(counts=lambda part: -part.counts), "negative counts"),
    "negative squares": (moments(products=lambda part: -part.products), "variances below zero"),
    "variances below zero": (moments(products=indefinite), "variances below zero"),
    "means beyond the squares": (moments(sums=lambda part: 2 * part.sums), "variances below zero"),
    "features that are too long": (
        moments(products=lambda part: 2 * part.products),
        "longer features",
    ),
    "moments that are no numbers": (
        moments(fourths=lambda part: part.fourths / 0),
        "values that are no numbers",
    ),
    "digests that are none": (
        altered("examples/" + "0" * 64 + ".safetensors", lambda c: save({"a": torch.ones(1)})),
        "does not hold digests",
    ),
    "spec that is none": (forged(weights=None, spec=huge), "more than"),
    "planted code": (forged(spec=planted), "MODKERNEL_TRUSTED_PACKAGES"),
    "data of no name": (of_data(name=""), "must have 1 to 200 characters"),
    "data of a long name": (of_data(name="x" * 201), "must have 1 to 200 characters"),
    "data of a name that a terminal obeys": (of_data(name="a\x1b[31m"), "can be printed"),
    "a class that a terminal obeys": (of_data(classes=("a", "b\x9b")), "no control characters"),
    "moments of data that a terminal obeys": (
        manifest(lambda v: set_in(v, "modules", 1, "moments", "0" * 64, to="\x1b[31m")),
        "can be printed",
    ),
    "a pickle as weights": (forged(weights=lambda c: PICKLED), "no.* a safetensors file"),
    "a header that lies": (forged(weights=lying_header), "not a safetensors file"),
    "a header of 2^60 bytes": (
        forged(weights=lambda c: (2**60).to_bytes(8, "little") + c[8:]),
        "not a safetensors file",
    ),
    "weights of another shape": (forged(weights=of_another_shape), "must be"),
    "weights that are no numbers": (forged(weights=not_finite), "no numbers"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_bundle_is_refused(name: str, bad: Path, good: Good, into: Registry) -> None:
    change, told = HOSTILE[name]
    change(bad, good)
    with pytest.raises(ModkernelError, match=told) as caught:
        import_bundle(into, bad)
    assert isinstance(caught.value, SpecError if name == "planted code" else BundleError)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    assert str(into.settings.home) not in message, "where it was unpacked is nobody's business"
    assert len(message) < 700
    assert rows(into) == {}
    assert left_files(into) == []
    assert into.backends.client.search_registered_models() == []
    assert "planted_code" not in sys.modules


@pytest.mark.parametrize("cut", range(1, 20))
def test_a_bundle_that_is_cut_off_anywhere_is_refused(
    cut: int, bad: Path, good: Good, into: Registry
) -> None:
    content = bad.read_bytes()
    bad.write_bytes(content[: cut * len(content) // 20])
    with pytest.raises(BundleError):
        import_bundle(into, bad)
    assert rows(into) == {}
    assert left_files(into) == []
