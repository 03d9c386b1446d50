"""The zip around a bundle has one form: each way of writing it otherwise is refused before anything is written."""

import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.bundle import unpack_bundle
from cache_schemas.stored_zip import MOST_MEMBERS, BundleError
from tests.cache_schemas.small_bundle import LOCAL, Patch, Refused, manifest_of, raw_zip, zipfile_read


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


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(BundleError, match="no ordinary file; allowed: a bundle's file"):
            unpack_bundle(path, tmp_path / "out")
    with pytest.raises(FileNotFoundError):
        unpack_bundle(tmp_path / "none", tmp_path / "out")


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
