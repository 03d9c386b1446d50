"""The manifest file and its rules."""

from dataclasses import replace
from pathlib import Path

import pytest

from cache_schemas.manifest import (
    Clip,
    ManifestError,
    Quarantined,
    category_of,
    clip_id_of,
    read_manifest,
    read_quarantine,
    write_manifest,
    write_quarantine,
)

CLIP = Clip(
    clip_id="00000000000000e1",  # looks like a number: must stay text
    path="a/b, c.mp4",
    dataset="d",
    subject_id="007",
    source_id="",
    target_id="008",
    video_label=1,
    audio_label=None,
    label=1,
    category="FV-",
    method="x",
    split="train",
    file_bytes=7,
)


def test_round_trip(tmp_path: Path) -> None:
    clips = [
        CLIP,
        replace(CLIP, clip_id="b", path="-b", audio_label=0, category="FVRA", audio_path="+voice.wav", group="men"),
        replace(CLIP, clip_id="c", path="'=c", subject_id="a; =cmd|x", target_id="'"),
    ]
    write_manifest(tmp_path / "m.csv", clips)
    assert read_manifest(tmp_path / "m.csv") == clips


@pytest.mark.parametrize("role", ["subject_id", "source_id", "target_id"])
def test_a_person_in_two_splits_is_refused_by_name(tmp_path: Path, role: str) -> None:
    other = replace(CLIP, clip_id="b", path="b", subject_id="s2", target_id="", split="test")
    clips = [CLIP, replace(other, **{role: "007"})]
    with pytest.raises(ManifestError, match=r"'007' is in two splits: a/b, c.mp4 in train, b in test"):
        write_manifest(tmp_path / "m.csv", clips)
    assert not (tmp_path / "m.csv").exists()


def test_a_hand_edited_manifest_with_a_leak_is_refused_on_reading(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    write_manifest(path, [CLIP, replace(CLIP, clip_id="b", path="b")])
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], lines[2].replace(",train,", ",val,")]))
    with pytest.raises(ManifestError, match="two splits"):
        read_manifest(path)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("clip_id,path\na,b\n")
    with pytest.raises(ManifestError, match="'dataset' is missing"):
        read_manifest(tmp_path / "m.csv")
    with pytest.raises(ManifestError, match="bmnas manifest"):
        read_manifest(tmp_path / "none.csv")


def test_a_manifest_of_before_there_were_sound_files_is_read(tmp_path: Path) -> None:
    old = [
        "clip_id,path,dataset,subject_id,source_id,target_id,video_label,audio_label,label,category,method,split,"
        "file_bytes,official_split,split_kind,video_segments,audio_segments",
        '00000000000000e1,"a/b, c.mp4",d,007,,008,1,,1,FV-,x,train,7,,subject,,',
    ]
    (tmp_path / "m.csv").write_text("\n".join(old) + "\n")
    assert read_manifest(tmp_path / "m.csv") == [CLIP]


def test_a_clip_is_its_picture_and_its_sound() -> None:
    one, two, three = ("1" * 64, "2" * 64, "3" * 64)
    assert clip_id_of(one) == "1" * 16
    assert len({clip_id_of(one), clip_id_of(one, two), clip_id_of(one, three), clip_id_of(two, one)}) == 4
    assert clip_id_of(one, two) == clip_id_of(one, two)
    assert len(clip_id_of(one, two)) == 16


@pytest.mark.parametrize(
    ("video", "audio", "category"),
    [(0, 0, "RVRA"), (1, 0, "FVRA"), (0, 1, "RVFA"), (1, 1, "FVFA"), (0, None, "RV-"), (1, None, "FV-")],
)
def test_category(video: int, audio: int | None, category: str) -> None:
    assert category_of(video, audio) == category


def test_quarantine_round_trip(tmp_path: Path) -> None:
    rows = [Quarantined("b", "b.mp4", "faces", 'no "face", found'), Quarantined("a", "a\n.mp4", "faces", "x")]
    write_quarantine(tmp_path / "q.csv", rows)
    assert read_quarantine(tmp_path / "q.csv") == sorted(rows, key=lambda row: row.path)
    assert read_quarantine(tmp_path / "none.csv") == []
