"""Tables as people and data sets write them: read where nothing is guessed, else one line that says what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cache_schemas.manifest import ManifestError, read_manifest, read_quarantine
from pipeline.datasets import LAYOUTS, LabelledFile, Refused
from pipeline.manifest.build import build_manifest
from pipeline.manifest.hashes import Hashes
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params
from tests.pipeline.datasets.test_layouts import lav_df

TABLE = 'path,subject_id,video_label,audio_label,target_id\n1.mp4,Zoë,Real,NONE,\n2.mp4,Bob,FAKE,0,"Ann;Zoë"\n'


def read_csv(root: Path) -> list[LabelledFile]:
    entries = list(LAYOUTS["csv"].read(root))
    assert all(isinstance(each, LabelledFile) for each in entries)
    return [each for each in entries if isinstance(each, LabelledFile)]


@pytest.mark.parametrize(
    "written",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),
        TABLE.replace(",", ";").encode("utf-8-sig"),
        TABLE.replace(",", "\t").encode("utf-16"),
        TABLE.replace(",", "\t").replace("\n", "\r\n").encode("utf-16"),
        TABLE.replace(",", " , ").encode(),
        TABLE.replace("\n", ",,\n").encode(),
        (TABLE + ",,,,\n\n").encode(),
    ],
    ids=["plain", "with mark", "semicolons", "UTF-16, tabs", "and CRLF", "blanks", "empty columns", "empty rows"],
)
def test_what_spreadsheets_save_is_read(tmp_path: Path, written: bytes) -> None:
    (tmp_path / "manifest.csv").write_bytes(written)
    first, second = read_csv(tmp_path)
    assert (first.path, first.subject_id, first.video_label, first.audio_label) == ("1.mp4", "Zoë", 0, None)
    assert (second.path, second.subject_id, second.video_label, second.audio_label) == ("2.mp4", "Bob", 1, 0)
    assert second.target_id == "Ann;Zoë"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (TABLE.encode("utf-16-le"), r"manifest\.csv is no text .*UTF-16 without its mark\): save it as CSV UTF-8"),
        (b"PK\3\4\x14\0\6\0", r"is no text \(a spreadsheet's own format.*: save it as CSV UTF-8"),
        (b"\xff\xfep\0a", r"is not CSV .*: save it as CSV UTF-8"),
        (TABLE.replace("Bob", '"Bob').encode(), r"follows line 2 is not CSV \(.*\): save it as CSV UTF-8"),
        (
            TABLE.replace("2.mp4", "2, or 3.mp4").encode(),
            r"line 3: more cells than columns; .* a ',' in quotation marks",
        ),
        (TABLE.replace("target_id", "path").encode(), r"column 'path' stands there twice"),
        (TABLE.replace(",", "|").encode(), r"column 'path' is missing; it has path\|subject_id"),
        (TABLE.replace("path", "p\x1b[31m\xe9").encode("latin-1"), r"is missing; it has p%1B\[31m%E9, subject_id"),
        (TABLE.replace("1.mp4", " ").encode(), r"line 2: path is empty"),
        (TABLE.replace("target_id", "audio_path").replace("NONE,", "NONE,a.wav").encode(), r"but audio_label is none"),
        (b"", r"column 'path' is missing; it has none"),
    ],
    ids=[
        "UTF-16 without a mark", "xlsx", "half of UTF-16", "an open quotation mark", "a bare comma", "a column twice",
        "another separator", "Latin-1 and escapes", "no path", "sound of nothing", "empty",
    ],
)  # fmt: skip
def test_what_cannot_be_read_says_so_in_one_line(tmp_path: Path, written: bytes, message: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(written)
    with pytest.raises(ManifestError, match=message):
        read_csv(tmp_path)


LAV_DF = lav_df("train/1.mp4", "train", video=True, audio=False, periods=[[0.5, 0.9]], original="1.mp4")


@pytest.mark.parametrize(
    ("layout", "name", "content"),
    [
        ("lav-df", "metadata.json", "[" * 100_000),
        ("av-deepfake1m", "val_metadata.json", '{"a":' * 100_000),
        ("dfdc", "metadata.json", '{"a":' * 100_000),
    ],
)
def test_json_that_is_nested_without_end_is_an_error(tmp_path: Path, layout: str, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ManifestError, match=r"metadata\.json is no data set's table: its JSON is nested too deeply"):
        list(LAYOUTS[layout].read(tmp_path))


def nested(depth: int) -> Any:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "wrong",
    [{"fake_periods": [[0, 10**400]]}, {"fake_periods": nested(400)}, {"original": 5}, {"fake_periods": ["x" * 10**6]}],
    ids=["a number without end", "nested", "no text", "a text without end"],
)
def test_an_entry_with_nonsense_is_refused_alone(tmp_path: Path, wrong: dict[str, Any]) -> None:
    (tmp_path / "metadata.json").write_text(json.dumps([LAV_DF, LAV_DF | wrong]))
    good, bad = LAYOUTS["lav-df"].read(tmp_path)
    assert isinstance(good, LabelledFile)
    assert isinstance(bad, Refused)
    assert len(bad.reason) < 1000


def test_names_that_no_file_can_have_stand_in_the_manifest_as_text(tmp_path: Path) -> None:
    """Half surrogate pairs in JSON, as a person's and as a file's name."""
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    (root / "train").mkdir(parents=True)
    entries = [LAV_DF | {"file": f"train/{i}.mp4", "original": f"\ud800{i}.mp4"} for i in range(4)]
    for entry in entries:
        (root / entry["file"]).write_text(entry["file"])
    entries.append(LAV_DF | {"file": "train/\udfff.mp4"})
    (root / "metadata.json").write_text(json.dumps(entries))
    params = small_params(root, data={"root": str(root), "layout": "lav-df"})
    clips = build_manifest(workspace, params)
    assert {clip.subject_id for clip in clips} == {f"%ED%A0%80{i}" for i in range(4)}
    assert read_manifest(workspace.manifest) == clips
    [row] = read_quarantine(workspace.quarantine("manifest"))
    assert row.path == "train/%ED%BF%BF.mp4"


@pytest.fixture
def no_hashing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are not read: what a test expects must be known before that."""

    def read(_: Hashes, path: Path) -> tuple[str, int]:
        raise AssertionError(f"{path} is read")

    monkeypatch.setattr(Hashes, "of", read)


def csv_tree(root: Path, people: int, **columns: str) -> None:
    names = ["path", "subject_id", "video_label", "audio_label", *columns]
    rows = [[f"{i}.mp4", f"p{i}", "real", "real", *columns.values()] for i in range(people)]
    (root / "manifest.csv").write_text("\n".join(",".join(row) for row in [names, *rows]) + "\n")


@pytest.mark.usefixtures("no_hashing")
@pytest.mark.parametrize(
    ("people", "there", "split", "message"),
    [
        (2, 2, {}, "2 unrelated subjects cannot fill train, val, test"),
        (3, 3, {"kind": "official"}, r"3 of 3 clips have no official split .* use split\.kind: subject"),
        (
            8,
            3,
            {},
            r"5 of 8 files that the data set names are not there, the first is 3\.mp4; check data\.root, or set max",
        ),
    ],
)
def test_what_the_table_alone_tells_is_told_before_files_are_read(
    tmp_path: Path, people: int, there: int, split: dict[str, str], message: str
) -> None:
    csv_tree(tmp_path, people)
    for number in range(there):
        (tmp_path / f"{number}.mp4").write_text("x")
    with pytest.raises(ManifestError, match=message):
        build_manifest(Workspace(tmp_path / "work"), small_params(tmp_path, split=split))


@pytest.mark.usefixtures("no_hashing")
def test_the_table_of_one_version_over_another_versions_files_is_one_error(tmp_path: Path) -> None:
    """FakeAVCeleb v1.2's table over the tree of v1.0, whose names are others."""
    folder = "FakeVideo-RealAudio/African/men/id00076"
    lines = ["source,target1,target2,method,category,type,race,gender,path,"]
    (tmp_path / folder).mkdir(parents=True)
    for i in range(50):
        (tmp_path / folder / f"0010{i}_id00166.mp4").write_text("x")
        lines.append(
            f"id00076,id00166,-,wav2lip,C,FakeVideo-RealAudio,African,men,0010{i}_{i}_id00166_wavtolip.mp4,FakeAVCeleb/{folder}"
        )
    (tmp_path / "meta_data.csv").write_text("\n".join(lines) + "\n")
    workspace = Workspace(tmp_path / "work")
    params = small_params(tmp_path, data={"root": str(tmp_path), "layout": "fakeavceleb"})
    with pytest.raises(
        ManifestError, match=r"50 of 50 files .* are not there.*; 50 files lie there .* another version"
    ):
        build_manifest(workspace, params)
    assert not workspace.quarantine("manifest").exists()


@pytest.mark.usefixtures("no_hashing")
def test_entries_that_cannot_be_used_are_told_before_files_are_read(tmp_path: Path) -> None:
    lines = ["source,target1,target2,method,category,type,race,gender,path,"]
    lines += [f"id{i},-,-,real,A,Real,African,men,{i}.mp4,FakeAVCeleb/x" for i in range(9)]
    (tmp_path / "meta_data.csv").write_text("\n".join(lines) + "\n")
    params = small_params(tmp_path, data={"root": str(tmp_path), "layout": "fakeavceleb"})
    with pytest.raises(
        ManifestError, match=r"9 of 9 entries cannot be used.*most often, 9 times: .*type 'Real' is not one"
    ):
        build_manifest(Workspace(tmp_path / "work"), params)


def test_optional_columns_may_be_missing(tmp_path: Path) -> None:
    """FakeAVCeleb's table with the columns that are needed, and no more."""
    (tmp_path / "meta_data.csv").write_text(
        "source,target1,target2,method,type,path,\nid1,-,-,real,RealVideo-RealAudio,1.mp4,FakeAVCeleb/a\n"
    )
    [file] = LAYOUTS["fakeavceleb"].read(tmp_path)
    assert isinstance(file, LabelledFile)
    assert (file.path, file.group) == ("a/1.mp4", "")
