"""Bundles: the same run gives the same bytes; whatever else anybody makes of them is refused before it is used."""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.bundle import unpack_bundle, write_bundle
from cache_schemas.stored_zip import MOST_MEMBERS, BundleError
from tests.cache_schemas.small_bundle import (
    ABOUT,
    LOCAL,
    Patch,
    manifest_of,
    members_of,
    raw_bundle,
    raw_zip,
    write_folder,
)

KEY, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
NETWORK = "retrain/fusion-0.safetensors"
DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def members(folder: Path) -> dict[str, bytes]:
    return members_of(folder)


@pytest.fixture(scope="module")
def honest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("honest") / "detector.bmnas"
    write_bundle(path, folder, ABOUT)
    return path.read_bytes()


Refused = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path) -> Refused:
    """Asserts that these bytes are refused, and nothing of them is written; returns what is said."""

    def call(raw: bytes, public_key: bytes | None = None) -> str:
        path, target = tmp_path / "attack.bmnas", tmp_path / "target"
        path.write_bytes(raw)
        target.mkdir(exist_ok=True)
        with pytest.raises(BundleError) as found:
            unpack_bundle(path, target, public_key=public_key)
        assert list(target.iterdir()) == []
        text = str(found.value)
        assert text.startswith(f"{path}: ")
        assert "; allowed: " in text
        return text

    return call


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


def zipfile_read(raw: bytes, name: str) -> bytes:
    with tempfile.TemporaryFile() as file:
        file.write(raw)
        with zipfile.ZipFile(file) as archive:
            return archive.read(name)


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


def moved(p: Patch, added: bytes) -> Patch:
    """With bytes before it, and all offsets right."""
    for i, place in enumerate(p.local):
        p.both(i, offset=place + len(added))
    return p.ending(start=int.from_bytes(p.raw[p.end + 16 : p.end + 20], "little") + len(added)).insert(0, added)


def gap(p: Patch, *, last: bool = False) -> Patch:
    """With four bytes that are no member's, and all offsets right."""
    start = int.from_bytes(p.raw[p.end + 16 : p.end + 20], "little")
    if not last:
        for i in range(1, len(p.local)):
            p.both(i, offset=p.local[i] + 4)
    return p.ending(start=start + 4).insert(start if last else p.local[1], b"PK\5\6")


def patched(p: Patch, place: int, byte: bytes) -> Patch:
    p.raw[place : place + 1] = byte
    return p


ZIP_ATTACKS: dict[str, tuple[Callable[[Patch], Patch | bytes], str]] = {
    "the last byte is gone": (lambda p: bytes(p.raw[:-1]), "its last 22 bytes: no end of a zip file"),
    "half of it is gone": (lambda p: bytes(p.raw[: len(p.raw) // 2]), "no end of a zip file"),
    "it is empty": (lambda _: b"", "the file: it has 0 bytes"),
    "a byte behind it": (lambda p: bytes(p.raw) + b"\0", "no end of a zip file"),
    "another zip behind it": (lambda p: bytes(p.raw) * 2, "a directory of .* ends where it begins"),
    "a byte before it": (lambda p: b"\0" + bytes(p.raw), "a directory of .* ends where it begins"),
    "a script before it, offsets moved": (
        lambda p: moved(p, b"#!/bin/sh\n"), r"bundle\.json: it starts at byte 10; allowed: 0"
    ),
    "a comment": (lambda p: bytes(p.ending(comment=3).raw) + b"abc", "no end of a zip file"),
    "a comment that looks like an end": (
        lambda p: bytes(p.ending(comment=22).raw) + bytes(p.raw[p.end :]), "a comment, or several parts"
    ),
    "a comment that is claimed": (lambda p: p.ending(comment=5), "a comment, or several parts"),
    "several disks": (lambda p: p.ending(disk=1), "a comment, or several parts"),
    "zip64 in the end": (lambda p: p.ending(start=0xFFFFFFFF), "its end: zip64"),
    "zip64 in a member": (lambda p: p.both(1, packed=0xFFFFFFFF, size=0xFFFFFFFF), "zip64; allowed: sizes in 32 bits"),
    "zip64's own end before the end": (
        lambda p: p.insert(p.end, b"PK\6\6" + bytes(52) + b"PK\6\7" + bytes(16)), "ends where it begins"
    ),
    "no members": (lambda p: p.ending(here=0, members=0), "its end: 0 members"),
    "fewer members than there are": (
        lambda p: p.ending(here=len(p.central) - 1, members=len(p.central) - 1), "bytes behind the last member"
    ),
    "more members than there are": (
        lambda p: p.ending(here=len(p.central) + 1, members=len(p.central) + 1), "no header of it in the directory"
    ),
    "other counts on this disk": (lambda p: p.ending(here=2), "several parts"),
    "a directory of another length": (lambda p: p.ending(length=1), "ends where it begins"),
    "encrypted": (lambda p: p.both(1, flags=1), "it is encrypted"),
    "sizes behind the content": (lambda p: p.both(1, flags=8), "flags 0x0008"),
    "names in UTF-8": (lambda p: p.both(1, flags=1 << 11), "flags 0x0800"),
    "compressed": (lambda p: p.both(1, method=8), r"it is compressed \(method 8\); allowed: stored"),
    "a bomb's two sizes": (lambda p: p.both(1, size=2**31), "and claims 2147483648"),
    "two members in the same bytes": (lambda p: p.both(2, offset=p.local[1]), "no gaps, no overlaps"),
    "a gap between members": (gap, "no gaps, no overlaps"),
    "a gap before the directory": (lambda p: gap(p, last=True), "where the last member ends"),
    "an extra field": (lambda p: p.both(len(p.central) - 1, extra=4), "an extra field or a comment"),
    "a link": (lambda p: p.both(1, attributes=0o120777 << 16), "it is a link; allowed: an ordinary file"),
    "a program": (lambda p: p.both(1, attributes=0o100755 << 16), "versions, date or attributes"),
    "another date": (lambda p: p.both(1, date=34), "versions, date or attributes"),
    "two CRCs": (lambda p: p.at(p.local[1], LOCAL, {"crc": 1}), "its two headers differ"),
    "another CRC": (lambda p: p.both(1, crc=1), "its CRC-32 is "),
    "another name in the local header": (lambda p: patched(p, p.local[1] + 30, b"E"), "its two headers differ"),
    "a content that is changed": (lambda p: patched(p, p.local[2] - 1, b"X"), "its CRC-32 is "),
}  # fmt: skip


@pytest.mark.parametrize("name", ZIP_ATTACKS)
def test_a_zip_that_is_written_otherwise_is_refused(honest: bytes, refused: Refused, name: str) -> None:
    attack, said = ZIP_ATTACKS[name]
    made = attack(Patch(honest))
    raw = made if isinstance(made, bytes) else bytes(made.raw)
    assert raw != honest
    assert re.search(said, refused(raw))


@pytest.mark.parametrize(
    "name",
    [
        "../evil.json", "retrain/../../evil.json", "/etc/evil.json", "retrain\\evil.json", "C:evil.json", "~/evil.json",
        "retrain//evil.json", "retrain/./evil.json", "./evil.json", "retrain/", "", "evil\0.json", "evil\n.json",
        "ev\u0456l.json", "con", "retrain/AUX.json", "com1.safetensors", "a" * 101, "evil.json.", ".evil", "ev il",
        "retrain/\u202ejson.exe",
    ],
)  # fmt: skip
def test_names_that_are_no_plain_path_below_a_folder_are_refused(
    members: dict[str, bytes], refused: Refused, name: str
) -> None:
    said = refused(raw_zip([(b"bundle.json", manifest_of(members)), (name.encode(), b"{}")]))
    assert "a member's name: " in said or name == "evil.json."
    assert "\n" not in said


@pytest.mark.parametrize("second", ["evaluate/metrics.json", "EVALUATE/metrics.json"])
def test_two_members_of_a_name_are_refused(members: dict[str, bytes], refused: Refused, second: str) -> None:
    pairs = [(b"bundle.json", manifest_of(members)), *((name.encode(), data) for name, data in members.items())]
    assert "two members of that name, but for capitals" in refused(raw_zip([*pairs, (second.encode(), b"{}")]))


def test_too_many_members_are_refused(refused: Refused) -> None:
    assert f"allowed: 1 to {MOST_MEMBERS}" in refused(
        raw_zip([(b"bundle.json", b"{}"), *((f"m{i}".encode(), b"") for i in range(MOST_MEMBERS))])
    )


def test_other_files_than_bundles_are_refused(members: dict[str, bytes], refused: Refused) -> None:
    assert "its first member: a.txt; allowed: bundle.json" in refused(raw_zip([(b"a.txt", b"hello")]))
    other = manifest_of(members, format="other")
    assert 'no format of that name; allowed: "format": "bmnas detector"' in refused(raw_bundle(members, first=other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 2, "bmnas": "0.9.3", "new": 1}, "format 2; .* install bmnas 0.9.3, which wrote it, or newer"),
        ({"version": 2, "bmnas": "[red]\x1b[2J"}, "format 2; .* install a newer bmnas"),
        ({"version": 0}, "version 0; allowed: 1 to 1"),
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


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(BundleError, match="allowed: an ordinary file"):
            unpack_bundle(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        unpack_bundle(tmp_path / "none", tmp_path / "out")


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


def test_every_byte_that_is_changed_is_refused(honest: bytes, tmp_path: Path) -> None:
    """One by one, a bit each: all of headers and bundle.json, every seventh of the rest. Nobody overlooks one."""
    contents = sum(
        len(zipfile_read(honest, name)) + 30 + len(name) for name in ("bundle.json", "evaluate/evidence.json")
    )
    last = Patch(honest).local[-1] + 100
    path, unnoticed = tmp_path / "d.bmnas", []
    for place in (*range(contents), *range(contents, last, 7), *range(last, len(honest))):
        path.write_bytes(honest[:place] + bytes([honest[place] ^ 1 << place % 8]) + honest[place + 1 :])
        try:
            unpack_bundle(path, tmp_path / "out")
        except BundleError:
            continue
        unnoticed.append(place)
    assert unnoticed == []


@given(st.data())
def test_random_changes_are_refused(honest: bytes, data: st.DataObject) -> None:
    """Cut off, cut out, put in, written over, swapped."""
    start = data.draw(st.integers(0, len(honest)))
    end = data.draw(st.integers(start, min(len(honest), start + 200)))
    added = data.draw(st.one_of(st.binary(max_size=50), st.just(honest[:end]), st.just(honest[start:] * 2)))
    raw = honest[:start] + added + honest[end:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "d.bmnas")
        path.write_bytes(raw)
        if raw == honest:
            unpack_bundle(path, Path(folder, "out"))
            return
        with pytest.raises(BundleError):
            unpack_bundle(path, Path(folder, "out"))
