"""Who made a bundle: ed25519 signatures of its manifest, which has the hash of every file.

Keys are in OpenSSH's form, so that `ssh-keygen` shows and makes them too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey as PrivateKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PublicKey as PublicKey,
)

from modkernel.errors import BundleError, SettingsError
from modkernel.spec import Spec

__all__ = ["PrivateKey", "Signature", "fingerprint_of", "make_key", "read_key", "signature_of"]

PURPOSE = b"modkernel bundle 1\n"
"""Before what is signed: a signature of something else never serves as one of a bundle."""
ALGORITHM = "ssh-ed25519"
VARIABLE = "MODKERNEL_TRUSTED_KEYS"


class Signature(Spec):
    """`signature.json` of a bundle."""

    format: Literal[1] = 1
    public_key: str
    """As OpenSSH writes it: 'ssh-ed25519 AAAA…'."""
    signature: str
    """Of `PURPOSE` and the bytes of the manifest, in base64."""


def make_key(path: Path) -> str:
    """Make a key: a file that its owner alone may read, and `PATH.pub` to hand out.

    Returns:
        The public key.

    Raises:
        BundleError: one of them is there already, or cannot be written.
    """
    key = PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = _text(key.public_key())
    try:
        for file, content, mode in (
            (path, private, 0o600),
            (path.with_name(f"{path.name}.pub"), f"{public}\n".encode(), 0o644),
        ):
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(descriptor, "wb") as target:
                target.write(content)
    except OSError as error:
        raise BundleError(
            f"Cannot write the key {error.filename or path}: {error.strerror or error}. Name a "
            "file that is not there yet, in a folder that you may write to."
        ) from error
    return public


def read_key(path: Path) -> PrivateKey:
    """The private key in a file.

    Raises:
        BundleError: there is none that can be used.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise BundleError(f"Cannot read the key {path}: {error.strerror or error}.") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BundleError(
            f"{path} is no private key without a passphrase: make one with 'modkernel bundle key'."
        ) from error
    if not isinstance(key, PrivateKey):
        raise BundleError(f"{path} is no ed25519 key: make one with 'modkernel bundle key'.")
    return key


def signature_of(key: PrivateKey, manifest: bytes) -> Signature:
    """The signature of a manifest."""
    signed = base64.b64encode(key.sign(PURPOSE + manifest)).decode()
    return Signature(public_key=_text(key.public_key()), signature=signed)


def check_signature(
    signature: Signature | None, manifest: bytes, trusted: Iterable[str]
) -> str | None:
    """Check who signed a manifest.

    Args:
        signature: that of the bundle, if it has one.
        manifest: what was signed.
        trusted: public keys and files of them; none trusts everybody.

    Returns:
        The fingerprint of the key that signed it; none where nobody did.

    Raises:
        BundleError: the signature is wrong, or keys are trusted and it is of none of these.
        SettingsError: a trusted key is none.
    """
    known = [key for given in trusted for key in trusted_keys(given)]
    if signature is None:
        if known:
            raise BundleError(
                f"Nobody signed this bundle, and {VARIABLE} names the keys that may: have it "
                "exported with --sign."
            )
        return None
    try:
        public = _public(signature.public_key)
        public.verify(base64.b64decode(signature.signature, validate=True), PURPOSE + manifest)
    except (InvalidSignature, ValueError, UnsupportedAlgorithm) as error:
        raise BundleError(
            "The bundle's signature is not of what is in it: it was altered after it was signed. "
            "Have it sent again."
        ) from error
    signer = fingerprint_of(signature.public_key)
    if known and signer not in map(fingerprint_of, known):
        raise BundleError(
            f"The bundle is signed with key {signer}, which {VARIABLE} does not name: if you trust "
            "its owner, add the public key there."
        )
    return signer


def trusted_keys(given: str) -> tuple[str, ...]:
    """The public keys that a part of the setting names: one, or those of a file, one a line.

    Raises:
        SettingsError: it is no key, and no file of keys alone.
    """
    lines = [given]
    if not given.startswith(f"{ALGORITHM} "):
        try:
            lines = Path(given).expanduser().read_text().splitlines()
        except (OSError, ValueError) as error:
            raise _no_key(given) from error
    keys = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for key in keys:
        try:
            _public(key)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise _no_key(given) from error
    if not keys:
        raise _no_key(given)
    return tuple(keys)


def fingerprint_of(public_key: str) -> str:
    """A key's fingerprint, as `ssh-keygen -l` shows it."""
    digest = hashlib.sha256(binascii.a2b_base64(public_key.split()[1])).digest()
    return f"SHA256:{base64.b64encode(digest).decode().rstrip('=')}"


def _public(text: str) -> PublicKey:
    key = serialization.load_ssh_public_key(text.encode())
    if not isinstance(key, PublicKey):
        raise ValueError("no ed25519 key")
    return key


def _text(key: PublicKey) -> str:
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()


def _no_key(given: str) -> SettingsError:
    return SettingsError(
        f"{VARIABLE} has {given[:60]!r}, which is neither a public key ('{ALGORITHM} AAAA…') nor a "
        "file of such: 'modkernel bundle key' makes one and shows it."
    )
