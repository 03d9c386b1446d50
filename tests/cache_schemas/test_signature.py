"""Keys of signatures: what is no Ed25519 key in PEM is refused, with how to make one."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from cache_schemas.signature import KeyFileError, is_signature, read_private_key, read_public_key

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


def pem(key: object, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())  # type: ignore[attr-defined, no-any-return]


def test_keys_are_read_and_sign(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_bytes(pem(KEY))
    (tmp_path / "public.pem").write_bytes(
        KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    public = read_public_key(tmp_path / "public.pem")
    signature = read_private_key(tmp_path / "key.pem").sign(b"text")
    assert is_signature(signature, b"text", public)
    assert not is_signature(signature, b"texts", public)
    assert not is_signature(signature, b"text", bytes(32))
    assert not is_signature(signature[:-1], b"text", public)
    with pytest.raises(KeyFileError, match=r"public\.pem: .*; needed: a private Ed25519 key"):
        read_private_key(tmp_path / "public.pem")
    with pytest.raises(KeyFileError, match=r"key\.pem: .*; needed: a public Ed25519 key"):
        read_public_key(tmp_path / "key.pem")


@pytest.mark.parametrize(
    "content",
    [b"", b"no key", pem(generate_private_key(SECP256R1())), pem(KEY, BestAvailableEncryption(b"secret"))],
    ids=["empty", "text", "another kind", "a pass phrase"],
)
def test_other_files_are_refused_with_how_to_make_one(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pem").write_bytes(content)
    with pytest.raises(KeyFileError, match="openssl genpkey -algorithm ed25519"):
        read_private_key(tmp_path / "key.pem")
