"""Signed bundles: who made one, and whose are taken."""

from __future__ import annotations

import shutil
import subprocess
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modkernel.errors import BundleError, SettingsError
from modkernel.registry import Registry, Settings
from modkernel.registry.bundles.manifest import MANIFEST, SIGNATURE
from modkernel.registry.bundles.signing import fingerprint_of, make_key, read_key, signature_of
from modkernel.registry.bundles.take_in import import_bundle
from modkernel.registry.bundles.write import export_bundle
from tests.registry.helpers.bundles import contents, manifest_of, rewrite, rows, write_raw

pytestmark = pytest.mark.home("one")


def trusting(registry: Registry, *keys: object) -> Registry:
    """The registry under settings that trust these keys alone."""
    values = registry.settings.model_dump() | {"trusted_keys": tuple(map(str, keys))}
    return Registry(replace(registry.backends, settings=Settings(**values)))


@pytest.fixture
def signed(registry: Registry, tmp_path: Path) -> tuple[Path, Path, str]:
    """A bundle, the key that signed it, and its public half."""
    key = tmp_path / "key"
    public = make_key(key)
    export_bundle(registry, "net.hidden-1", tmp_path / "a.mkb", read_key(key))
    return tmp_path / "a.mkb", key, public


def test_a_key_is_its_owners_alone_and_openssh_knows_it(tmp_path: Path) -> None:
    public = make_key(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "key.pub").read_text() == f"{public}\n"
    with pytest.raises(BundleError, match="not there yet"):
        make_key(tmp_path / "key")
    if (ssh := shutil.which("ssh-keygen")) is not None:
        shown = subprocess.check_output([ssh, "-l", "-f", tmp_path / "key.pub"], text=True)
        assert shown.split()[1] == fingerprint_of(public)


def test_who_signed_is_told_and_whom_one_trusts_is_taken(
    registry: Registry, signed: tuple[Path, Path, str], tmp_path: Path
) -> None:
    file, key, public = signed
    assert import_bundle(registry, file).signer == fingerprint_of(public)
    keys = tmp_path / "colleagues.pub"
    keys.write_text(f"# colleagues\n{make_key(tmp_path / 'another')} Ann\n\n{public} Bob\n")
    for trusted in (public, f"{public} Bob", f"{key}.pub", keys):
        assert import_bundle(trusting(registry, trusted), file).signer == fingerprint_of(public)
    export_bundle(registry, "net.hidden-1", tmp_path / "b.mkb", read_key(key))
    assert (tmp_path / "b.mkb").read_bytes() == file.read_bytes()


def unsigned(file: Path, key: Path) -> None:
    write_raw(file, _files(file), _manifest(file))


def of_another_key(file: Path, key: Path) -> None:
    make_key(key.with_name("other"))
    _sign(file, read_key(key.with_name("other")), _manifest(file))


def of_another_manifest(file: Path, key: Path) -> None:
    _sign(file, read_key(key), b"{}")


def altered(file: Path, key: Path) -> None:
    signature = contents(file)[SIGNATURE]
    rewrite(file, _files(file), format=1, modules=[_module(file) | {"name": "other.hidden-1"}])
    manifest = _manifest(file)
    write_raw(file, {SIGNATURE: signature, **_files(file)}, manifest)


def of_another_purpose(file: Path, key: Path) -> None:
    """The key of an SSH user may have signed many things."""
    import base64

    manifest = _manifest(file)
    made = signature_of(read_key(key), manifest)
    bare = base64.b64encode(read_key(key).sign(manifest)).decode()
    text = made.changed(signature=bare).canonical_json().encode()
    write_raw(file, {SIGNATURE: text, **_files(file)}, manifest)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (unsigned, "Nobody signed this bundle"),
        (of_another_key, "does not name"),
        (of_another_manifest, "not of what is in it"),
        (altered, "not of what is in it"),
        (of_another_purpose, "not of what is in it"),
    ],
)
def test_where_keys_are_trusted_nothing_else_is_taken(
    registry: Registry,
    settings: Settings,
    signed: tuple[Path, Path, str],
    change: Any,
    told: str,
) -> None:
    file, key, public = signed
    change(file, key)
    before = rows(registry)
    with pytest.raises(BundleError, match=told):
        import_bundle(trusting(registry, public), file)
    assert rows(registry) == before
    if change in (unsigned, of_another_key):
        other = None if change is unsigned else key.with_name("other.pub").read_text()
        found = import_bundle(registry, file).signer
        assert found == (None if other is None else fingerprint_of(other))
    else:
        with pytest.raises(BundleError, match=told):
            import_bundle(registry, file)


@pytest.mark.parametrize("given", ["nobody.pub", "ssh-ed25519 AAAA", "ssh-rsa AAAAB3NzaC1yc2E="])
def test_a_trusted_key_that_is_none_is_told(
    registry: Registry, signed: tuple[Path, Path, str], given: str
) -> None:
    with pytest.raises(SettingsError, match="MODKERNEL_TRUSTED_KEYS has"):
        import_bundle(trusting(registry, given), signed[0])


def test_a_private_key_is_not_taken_for_a_public_one(
    registry: Registry, signed: tuple[Path, Path, str], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match="neither a public key"):
        import_bundle(trusting(registry, signed[1]), signed[0])
    for content in ("no key", (tmp_path / "key.pub").read_text()):
        (tmp_path / "none").write_text(content)
        with pytest.raises(BundleError, match="no private key"):
            read_key(tmp_path / "none")


def test_keys_have_commas_between(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MODKERNEL_TRUSTED_KEYS", "ssh-ed25519 AAAA Ann, keys.pub,")
    assert Settings(home=tmp_path).trusted_keys == ("ssh-ed25519 AAAA Ann", "keys.pub")
    monkeypatch.setenv("MODKERNEL_TRUSTED_KEYS", " , ")
    with pytest.raises(SettingsError, match="',' names nothing"):
        Settings(home=tmp_path)


def _manifest(file: Path) -> bytes:
    with zipfile.ZipFile(file) as archive:
        return archive.read(MANIFEST)


def _module(file: Path) -> dict[str, Any]:
    return manifest_of(file).modules[0].model_dump(mode="json")


def _files(file: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(file).items() if name != SIGNATURE}


def _sign(file: Path, key: Any, signed: bytes) -> None:
    text = signature_of(key, signed).canonical_json().encode()
    write_raw(file, {SIGNATURE: text, **_files(file)}, _manifest(file))
