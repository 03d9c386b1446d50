"""Bundles: the same run gives the same bytes; whatever else anybody makes of them is refused before it is used."""

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cache_schemas.bundle import unpack_bundle, write_bundle
from cache_schemas.stored_zip import BundleError
from tests.cache_schemas.small_bundle import (
    ABOUT,
    Refused,
    manifest_of,
    members_of,
    raw_bundle,
    raw_zip,
    write_folder,
    zipfile_read,
)

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
NETWORK = "retrain/fusion-0.safetensors"
DATA = Path(__file__).parent / "data"


def test_what_is_bundled_comes_out_and_any_zip_program_reads_it(
    folder: Path, members: dict[str, bytes], tmp_path: Path
) -> None:
    path = tmp_path / "detector.bmnas"
    made = write_bundle(path, folder, ABOUT)
    found = unpack_bundle(path, tmp_path / "out")
    assert found == made
    assert found.public_key is None
    assert members_of(tmp_path / "out") == members
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        assert file.namelist() == ["bundle.json", *sorted(members)]
        assert {name: file.read(name) for name in members} == members
        assert {info.compress_type for info in file.infolist()} == {zipfile.ZIP_STORED}


def test_the_same_run_gives_the_same_bytes(folder: Path, honest: bytes, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other")
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    (other / "retrain" / "retrain.json").chmod(0o600)
    write_bundle(tmp_path / "again.bmnas", other, ABOUT)
    assert (tmp_path / "again.bmnas").read_bytes() == honest


def test_the_bytes_are_those_of_format_1(members: dict[str, bytes], honest: bytes) -> None:
    assert honest == raw_bundle(members, first=zipfile_read(honest, "bundle.json"))


def test_a_killed_bundle_leaves_the_old_file(folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of the writing."""
    target = tmp_path / "detector.bmnas"
    target.write_bytes(b"old")
    code = """
import os, pathlib, signal, sys
from cache_schemas import stored_zip
from cache_schemas.bundle import write_bundle
local = stored_zip.Entry.local
stored_zip.Entry.local = lambda entry: os.kill(os.getpid(), signal.SIGKILL) if "metrics" in entry.name else local(entry)
write_bundle(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), {"bmnas": "0", "networks": {}, "backbones": []})
"""
    ended = subprocess.run([sys.executable, "-c", code, target, folder], check=False)
    assert ended.returncode == -9
    assert target.read_bytes() == b"old"


def test_a_folder_that_is_no_detector_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    other = write_folder(tmp_path / "other")
    (other / "evaluate" / "evidence.json").unlink()
    with pytest.raises(BundleError, match=r"evaluate/evidence\.json: it is missing"):
        write_bundle(tmp_path / "out" / "detector.bmnas", other, ABOUT)
    assert list((tmp_path / "out").iterdir()) == []


def test_other_files_than_bundles_are_refused(members: dict[str, bytes], refused: Refused) -> None:
    assert "its first member: a.txt; allowed: bundle.json" in refused(raw_zip([(b"a.txt", b"hello")]))
    other = manifest_of(members, format="other")
    assert 'no format of that name; allowed: "format": "bmnas detector"' in refused(raw_bundle(members, first=other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 3, "bmnas": "0.9.3", "new": 1}, "format 3; .* install bmnas 0.9.3, which wrote it, or newer"),
        ({"version": 3, "bmnas": "[red]\x1b[2J"}, "format 3; .* install a newer bmnas"),
        ({"version": 0}, "version 0; allowed: 1 to 2"),
        ({"version": "1"}, "version '1'"),
        ({"new": 1}, "field new: "),
        ({"networks": {"eyes": [1]}}, "field networks.eyes"),
        ({"members": {"evaluate/metrics.json": {"sha256": "0", "bytes": 3}}}, "field members.*sha256"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(
    members: dict[str, bytes], refused: Refused, changes: dict[str, object], said: str
) -> None:
    found = refused(raw_bundle(members, first=manifest_of(members, **changes)))
    assert re.search(said, found)
    assert "\x1b" not in found


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff", "decode"),
        (b'{"a": 1, "a": 2}', "a key stands twice"),
        (b'{"a": NaN}', "NaN is no number of JSON"),
        (b"[" * 100_000, "recursion|Recursion"),
        (b"[" * 40 + b"]" * 40, "more than 32 levels"),
        (b'{"a": ' + b"1" * 5000 + b"}", "limit"),
        (b"{} {}", "Extra data"),
    ],
)
@pytest.mark.parametrize("name", ["bundle.json", "evaluate/metrics.json", "signature.json"])
def test_json_that_two_readers_could_read_differently_is_refused(
    members: dict[str, bytes], refused: Refused, name: str, content: bytes, said: str
) -> None:
    if name == "bundle.json":
        raw = raw_bundle(members, first=content)
    elif name == "signature.json":
        rest = [(of.encode(), data) for of, data in members.items()]
        raw = raw_zip([(b"bundle.json", manifest_of(members)), (b"signature.json", content), *rest])
    else:
        raw = raw_bundle(members | {name: content})
    found = refused(raw)
    assert f"{name}: " in found
    assert re.search(said, found)


def test_texts_beyond_the_limit_are_refused_before_they_are_parsed(members: dict[str, bytes], refused: Refused) -> None:
    large = b"[" + b"0," * (9 << 20) + b"0]"
    start = time.process_time()
    assert "allowed: 16777216 at most" in refused(raw_bundle(members | {"evaluate/metrics.json": large}))
    assert "allowed: 1048576 at most" in refused(raw_bundle(members, first=large))
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("retrain/code.pt", "no part of a detector"),
        ("retrain/code.pkl", "no part of a detector"),
        ("evaluate/scores.csv", "no part of a detector"),
        ("pipeline.py", "no part of a detector"),
        ("backbones/visual-0.bin", "no part of a detector"),
        ("backbones/other-0.safetensors", "no part of a detector"),
        ("retrain/other.safetensors", "retrain.json and the bundle do not agree"),
    ],
)
def test_members_that_no_detector_has_are_refused(
    members: dict[str, bytes], refused: Refused, name: str, said: str
) -> None:
    assert f"{name}: {said}" in refused(raw_bundle(members | {name: b"{}"}))


def test_what_is_listed_and_what_is_there_must_agree(members: dict[str, bytes], refused: Refused) -> None:
    few = {name: data for name, data in members.items() if name != "evaluate/metrics.json"}
    manifest = manifest_of(members)
    assert "bundle.json lists it, and it is not there" in refused(raw_bundle(few, first=manifest))
    assert "it is not in bundle.json" in refused(raw_bundle(members, first=manifest_of(few)))
    assert "metrics.json: it is missing" in refused(raw_bundle(few))
    without = {name: data for name, data in members.items() if name != NETWORK}
    assert f"{NETWORK}: retrain.json and the bundle do not agree" in refused(raw_bundle(without))
    changed = members | {NETWORK: members[NETWORK][:-1] + b"\1"}
    assert "its SHA-256 is " in refused(raw_bundle(changed, first=manifest))
    longer = members | {NETWORK: members[NETWORK] + b"\0"}
    assert f"it has {len(longer[NETWORK])} bytes" in refused(raw_bundle(longer, first=manifest))
    text = members | {"evaluate/metrics.json": members["evaluate/metrics.json"].replace(b"2", b"3")}
    assert "its SHA-256 is " in refused(raw_bundle(text, first=manifest))
    order = [(b"bundle.json", manifest), *((name.encode(), members[name]) for name in reversed(members))]
    assert "members in another order" in refused(raw_zip(order))


def test_a_retrain_json_of_another_kind_is_refused(members: dict[str, bytes], refused: Refused) -> None:
    run = json.loads(members["retrain/retrain.json"])
    run["entries"][0]["weights"] = "../../fusion-0.safetensors"
    said = refused(raw_bundle(members | {"retrain/retrain.json": json.dumps(run).encode()}))
    assert "retrain/retrain.json: field entries.0.weights" in said


@pytest.fixture(scope="module")
def signed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("signed") / "detector.bmnas"
    made = write_bundle(path, folder, ABOUT, key=KEY)
    assert made.public_key == KEY.public_key().public_bytes_raw().hex()
    return path.read_bytes()


def test_the_owner_s_key_opens_it_and_so_does_none(signed: bytes, members: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "d.bmnas").write_bytes(signed)
    for i, key in enumerate((None, KEY.public_key().public_bytes_raw())):
        found = unpack_bundle(tmp_path / "d.bmnas", tmp_path / str(i), public_key=key)
        assert found.public_key == KEY.public_key().public_bytes_raw().hex()
        assert members_of(tmp_path / str(i)) == members


def test_another_s_signature_and_none_are_refused(signed: bytes, honest: bytes, refused: Refused) -> None:
    other = OTHER.public_key().public_bytes_raw()
    assert f"signed by the owner of {KEY.public_key().public_bytes_raw().hex()}" in refused(signed, other)
    assert "nobody signed it" in refused(honest, other)


def test_a_signature_of_something_else_is_refused(signed: bytes, members: dict[str, bytes], refused: Refused) -> None:
    signature = zipfile_read(signed, "signature.json")
    changed = members | {"evaluate/metrics.json": b"{}"}
    rest = [(name.encode(), changed[name]) for name in sorted(changed)]
    raw = raw_zip([(b"bundle.json", manifest_of(changed)), (b"signature.json", signature), *rest])
    for key in (None, KEY.public_key().public_bytes_raw()):
        assert "signature.json: it is not that of bundle.json" in refused(raw, key)
