"""Ed25519 signatures: who made a file, where its maker's public key is known."""

from __future__ import annotations

from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

_MAKE = "`openssl genpkey -algorithm ed25519 -out KEY.pem`, `openssl pkey -in KEY.pem -pubout -out PUBLIC.pem`"


class KeyFileError(ValueError):
    """A key's file cannot be used; the message says what it must be and how one is made."""


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """The key in a PEM file without a pass phrase; raises KeyFileError for others."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: it has a pass phrase
        raise _unusable(path, "private", str(error)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise _unusable(path, "private", f"it is a {type(key).__name__}")
    return key


def read_public_key(path: Path) -> bytes:
    """The 32 bytes of the key in a PEM file; raises KeyFileError for others."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "public", str(error)) from None
    if not isinstance(key, Ed25519PublicKey):
        raise _unusable(path, "public", f"it is a {type(key).__name__}")
    return key.public_bytes_raw()


def is_signature(signature: bytes, content: bytes, public_key: bytes) -> bool:
    """Whether the signature is that of `content` by whoever has the public key's private one."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, content)
    except (InvalidSignature, ValueError):
        return False
    return True


def _unusable(path: Path, kind: str, why: str) -> KeyFileError:
    return KeyFileError(
        f"{path}: {why}; needed: a {kind} Ed25519 key, PEM, without a pass phrase; such are made by {_MAKE}"
    )
