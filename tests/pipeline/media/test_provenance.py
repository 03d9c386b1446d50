"""C2PA manifests, of files that are signed here: what they say, whether it holds, and that nobody else is asked."""

from __future__ import annotations

import datetime
import http.server
import threading
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline import media
from tests.pipeline.clips import make_clip

c2pa = pytest.importorskip("c2pa")
DRAWN = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
Key = ec.EllipticCurvePrivateKey


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4")


def certificate(name: str, key: Key, issuer: str, issuer_key: Key) -> bytes:
    """In PEM, good for a century; whoever is its own issuer may issue others."""
    subject, by = (x509.Name([x509.NameAttribute(kind, text) for kind in _KINDS]) for text in (name, issuer))
    ca, begin = name == issuer, datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC)
    usage = x509.KeyUsage(not ca, *[False] * 4, ca, ca, *[False] * 2)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(by).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin + datetime.timedelta(days=36500))
    builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
    builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False)
    builder = builder.add_extension(usage, critical=True)
    if not ca:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


_KINDS = (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)


def sign(clip: Path, target: Path, *, signer: str = "a signer", remote: str = "") -> Path:
    root, own = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    chain = certificate(signer, own, "a root", root) + certificate("a root", root, "a root", root)
    coded = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=chain, private_key=own.private_bytes(*coded), ta_url=None)
    actions = {"actions": [{"action": "c2pa.created", "digitalSourceType": DRAWN}]}
    told: dict[str, Any] = {"claim_generator_info": [{"name": "a drawing program", "version": "1"}]}
    builder = c2pa.Builder({**told, "assertions": [{"label": "c2pa.actions.v2", "data": actions}]})
    if remote:
        builder.set_no_embed()
        builder.set_remote_url(remote)
    with clip.open("rb") as source, target.open("w+b") as out:
        builder.sign(c2pa.Signer.from_info(info), "video/mp4", source, out)
    return target


def test_a_file_without_a_manifest_has_none(clip: Path, tmp_path: Path) -> None:
    assert media.provenance(clip) is None
    assert media.provenance(make_clip(tmp_path / "a.mkv")) is None
    with pytest.raises(media.PassingError, match="does not exist"):
        media.provenance(tmp_path / "none.mp4")


def test_a_manifest_says_who_signed_and_what_was_done(clip: Path, tmp_path: Path) -> None:
    found = media.provenance(sign(clip, tmp_path / "signed.mp4"))
    assert found is not None
    assert (found.state, found.problems) == ("valid", ())
    assert (found.signer, found.issuer, found.generator) == ("a signer", "a signer", "a drawing program 1")
    assert found.actions == ("c2pa.created (trainedAlgorithmicMedia)",)
    assert found.says.endswith("was not checked; it tells: c2pa.created (trainedAlgorithmicMedia)")


def test_a_file_that_was_changed_since_is_not_what_was_signed(clip: Path, tmp_path: Path) -> None:
    signed = sign(clip, tmp_path / "signed.mp4")
    content = bytearray(signed.read_bytes())
    content[content.find(b"mdat") + 100] ^= 1
    signed.write_bytes(content)
    found = media.provenance(signed)
    assert found is not None
    assert (found.state, found.problems) == ("invalid", ("assertion.bmffHash.mismatch",))
    assert "no longer what was signed" in found.says


def test_what_a_stranger_writes_steers_no_terminal(clip: Path, tmp_path: Path) -> None:
    found = media.provenance(sign(clip, tmp_path / "signed.mp4", signer="a\x1b[2J\nraw P(fake) 0.000"))
    assert found is not None
    assert found.signer.isprintable()


def test_nobody_is_asked_for_a_manifest_that_lies_elsewhere(clip: Path, tmp_path: Path) -> None:
    asked = list[str]()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = sign(clip, tmp_path / "far.mp4", remote=f"http://127.0.0.1:{server.server_port}/manifest.c2pa")
        found = media.provenance(path)
        server.shutdown()
    assert found is not None
    assert found.state == "unreadable"
    assert asked == []


def test_a_decoder_that_dies_of_a_manifest_is_no_loss(clip: Path, tmp_path: Path) -> None:
    """Cut short anywhere: each has an answer, and the next file is read."""
    signed = sign(clip, tmp_path / "signed.mp4")
    content = signed.read_bytes()
    for share in (0.1, 0.3, 0.5, 0.9):
        (tmp_path / "cut.mp4").write_bytes(content[: int(share * len(content))])
        found = media.provenance(tmp_path / "cut.mp4")
        assert found is None or found.state in ("invalid", "unreadable")
    again = media.provenance(signed)
    assert again is not None
    assert again.state == "valid"
