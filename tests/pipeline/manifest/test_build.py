"""The manifest stage: layouts, splits by person, files that cannot be opened."""

import csv
import os
import re
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.manifest import Clip, ManifestError, category_of, check_splits, read_manifest, read_quarantine
from pipeline.datasets.fakeavceleb import read as read_fakeavceleb_layout
from pipeline.manifest.build import build_manifest
from pipeline.manifest.splits import assign_splits
from pipeline.params import SplitParams
from pipeline.workspace import Workspace
from tests.pipeline.conftest import small_params


def clip(number: int, subject: str, *, source: str = "", target: str = "", video: int = 0, audio: int = 0) -> Clip:
    name, category = f"c{number}", category_of(video, audio)
    return Clip(
        name, name, "d", subject, source, target, video, audio, int(bool(video or audio)), category, "m", "train", 1
    )


people = st.sampled_from([f"p{i}" for i in range(12)])


@settings(max_examples=60)
@given(st.lists(st.tuples(people, people | st.just(""), st.booleans()), min_size=1, max_size=40), st.integers(0, 5))
def test_no_person_is_ever_in_two_splits(rows: list[tuple[str, str, bool]], seed: int) -> None:
    clips = [clip(i, subject, source=source, video=int(fake)) for i, (subject, source, fake) in enumerate(rows)]
    alone = [clip(100 + i, f"alone{i}") for i in range(3)]
    result, _ = assign_splits(clips + alone, SplitParams(), seed=seed)
    check_splits(result)
    assert {c.split for c in result} == {"train", "val", "test"}
    assert (result, []) == assign_splits(clips + alone, SplitParams(), seed=seed)


def test_fewer_people_than_splits_are_refused() -> None:
    with pytest.raises(ManifestError, match="2 unrelated subjects cannot fill"):
        assign_splits([clip(0, "a"), clip(1, "b"), clip(2, "b")], SplitParams(), seed=0)


def test_splits_are_stratified_and_depend_on_the_seed() -> None:
    clips = [clip(8 * s + k, f"s{s}", video=k % 2, audio=k // 2 % 2) for s in range(40) for k in range(8)]
    first, second = (assign_splits(clips, SplitParams(val=0.25, test=0.25), seed=seed)[0] for seed in (0, 1))
    for split, share in (("train", 0.5), ("val", 0.25), ("test", 0.25)):
        for category in ("RVRA", "FVRA", "RVFA", "FVFA"):
            count = sum(c.split == split and c.category == category for c in first)
            assert count == share * 80
    assert [c.split for c in first] != [c.split for c in second]


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def csv_rows(n: int) -> list[dict[str, str]]:
    return [
        {"path": f"v{i}.mp4", "subject_id": f"s{i}", "video_label": "real", "audio_label": ["real", "none"][i % 2]}
        for i in range(n)
    ]


def test_csv_layout_and_files_that_cannot_be_opened(tmp_path: Path) -> None:
    root = tmp_path / "data"
    root.mkdir()
    rows = csv_rows(12)
    for row in rows[:8]:
        (root / row["path"]).write_bytes(row["path"].encode())
    (root / "v6.mp4").write_bytes(b"v4.mp4")  # a copy of v4
    (root / "v7.mp4").write_bytes(b"")
    (root / "v8.mp4").mkdir()
    rows[10]["path"] = "../data/../../etc/passwd"
    (root / "v11.mp4").symlink_to("/etc/hostname")
    write_csv(root / "manifest.csv", rows)
    workspace = Workspace(tmp_path / "work")
    clips = build_manifest(workspace, small_params(root))
    assert read_manifest(workspace.manifest) == clips
    assert [c.path for c in clips] == [f"v{i}.mp4" for i in range(6)]
    assert [c.category for c in clips[:2]] == ["RVRA", "RV-"]
    reasons = {row.path: row.reason for row in read_quarantine(workspace.quarantine("manifest"))}
    assert "same content as v4.mp4" in reasons["v6.mp4"]
    assert "0 bytes" in reasons["v7.mp4"]
    assert "directory" in reasons["v8.mp4"]
    assert "does not exist" in reasons["v9.mp4"]
    assert "outside the data root" in reasons["../data/../../etc/passwd"]
    assert "outside the data root" in reasons["v11.mp4"]
    with pytest.raises(
        ManifestError, match=r"6 of 12 files .* more than max_failed_fraction 0\.4; most often, 2 times: the path leads"
    ):
        build_manifest(workspace, small_params(root, max_failed_fraction=0.4))


STAND_INS = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 1234567\n", "git lfs pull"),
    "zeros": (bytes(1 << 21), "nothing but zeros"),
    "empty": (b"", r"empty \(0 bytes\)"),
}


@pytest.mark.parametrize("kind", STAND_INS)
def test_a_data_set_most_of_which_is_not_there_says_so(tmp_path: Path, kind: str) -> None:
    """A clone without Git LFS, a copy that broke off: each file's reason, and the stop's."""
    content, said = STAND_INS[kind]
    rows = csv_rows(8)
    for i, row in enumerate(rows):
        lost = content % i if b"%" in content else content
        (tmp_path / row["path"]).write_bytes(bytes([i, 1]) if i < 3 else lost)
    write_csv(tmp_path / "manifest.csv", rows)
    workspace = Workspace(tmp_path / "work")
    with pytest.raises(ManifestError, match=rf"5 of 8 .*most often, 5 times: .*{said}"):
        build_manifest(workspace, small_params(tmp_path))
    reasons = [row.reason for row in read_quarantine(workspace.quarantine("manifest"))]
    assert all(re.search(said, reason) for reason in reasons)


class DataSet:
    """Six files of a MB, written long ago."""

    def __init__(self, root: Path) -> None:
        self.root, self.workspace = root, Workspace(root / "work")
        self.rows = csv_rows(6)
        for row in self.rows:
            self.write(row["path"], row["path"])
        self.build()

    def write(self, name: str, said: str, *, age_s: float = 1000.0) -> None:
        (self.root / name).write_bytes(said.encode().ljust(1 << 20, b"."))
        written_s = time.time() - age_s
        os.utime(self.root / name, (written_s, written_s))

    def build(self) -> tuple[list[str], int]:
        """(clip ids, MB that were read)."""
        write_csv(self.root / "manifest.csv", self.rows)
        before = psutil.Process().io_counters().read_chars
        clips = build_manifest(self.workspace, small_params(self.root))
        return [clip.clip_id for clip in clips], (psutil.Process().io_counters().read_chars - before) >> 20


def test_files_that_are_as_they_were_are_not_read_again(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    first, read = data.build()
    assert read == 0
    (tmp_path / "v0.mp4").rename(
        tmp_path / "other.mp4"
    )  # as a copy would: another file takes the name, same size, time
    data.write("v0.mp4", "new")
    found, read = data.build()
    assert (found[1:], read) == (first[1:], 1)
    assert found[0] != first[0]
    data.rows = data.rows[:4]
    data.build()
    assert len(data.workspace.hashes.read_text().splitlines()) == 4


def test_a_file_that_was_written_over_and_given_its_old_time_is_read_again(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    first, _ = data.build()
    was = (tmp_path / "v0.mp4").stat()
    with (tmp_path / "v0.mp4").open("r+b") as file:
        file.write(b"other")
    os.utime(tmp_path / "v0.mp4", ns=(was.st_atime_ns, was.st_mtime_ns))
    found, read = data.build()
    assert (found[0] != first[0], read) == (True, 1)


def test_a_file_that_was_just_written_is_read_again(tmp_path: Path) -> None:
    """It may be written once more within a tick of the clock."""
    data = DataSet(tmp_path)
    data.write("v0.mp4", "new", age_s=0.0)
    for _ in range(2):
        assert data.build()[1] == 1


def test_a_run_that_was_killed_has_read_what_it_has_read(tmp_path: Path) -> None:
    data = DataSet(tmp_path)
    first, _ = data.build()
    lines = data.workspace.hashes.read_text().splitlines(keepends=True)
    data.workspace.hashes.write_text("".join(lines[:4]) + lines[4][:90])
    assert data.build() == (first, 2)


def test_clip_ids_come_from_the_content(tmp_path: Path) -> None:
    ids = []
    for name in ("a", "b"):
        root = tmp_path / name
        root.mkdir()
        rows = [{**row, "path": name + row["path"]} for row in csv_rows(4)]
        for i, row in enumerate(rows):
            (root / row["path"]).write_bytes(bytes([i, 1]))
        write_csv(root / "manifest.csv", rows)
        ids.append([c.clip_id for c in build_manifest(Workspace(tmp_path / f"w{name}"), small_params(root))])
    assert ids[0] == ids[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video_label": "deepfake"}, r"line 2: video_label 'deepfake' is not real, fake, none, 0, 1 or empty"),
        ({"video_label": "none"}, "line 2: video_label is empty"),
    ],
)
def test_wrong_labels_are_named_by_line(tmp_path: Path, change: dict[str, str], message: str) -> None:
    write_csv(tmp_path / "manifest.csv", [{**csv_rows(1)[0], **change}])
    with pytest.raises(ManifestError, match=message):
        build_manifest(Workspace(tmp_path / "work"), small_params(tmp_path))


def test_a_missing_table_or_column_says_what_to_check(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"check data\.root and data\.layout"):
        build_manifest(Workspace(tmp_path), small_params(tmp_path / "nowhere"))
    write_csv(tmp_path / "manifest.csv", [{"path": "a", "subject_id": "b"}])
    with pytest.raises(ManifestError, match="column 'video_label' is missing; it has path, subject_id"):
        build_manifest(Workspace(tmp_path), small_params(tmp_path))


def test_fakeavceleb_quirks(tmp_path: Path) -> None:
    """The nameless last column with another prefix, and a file that stands in two rows."""
    header = "source,target1,target2,method,category,type,race,gender,path,\n"
    folder = "FakeAVCeleb/{}/African/men/id00076"
    rows = [
        f"id00076,-,-,real,A,RealVideo-RealAudio,African,men,00109.mp4,{folder.format('RealVideo-RealAudio')}",
        f"id00076,-,-,rtvc,B,RealVideo-FakeAudio,African,men,00109_fake.mp4,{folder.format('RealVideo-FakeAudio')}",
        *(
            f"id00076,id00166,-,{method},C,FakeVideo-RealAudio,African,men,00109_1.mp4,"
            + folder.format("FakeVideo-RealAudio")
            for method in ("faceswap", "wav2lip")
        ),
    ]
    (tmp_path / "meta_data.csv").write_text(header + "\n".join(rows) + "\n")
    files = list(read_fakeavceleb_layout(tmp_path))
    assert [f.path for f in files] == [
        "RealVideo-RealAudio/African/men/id00076/00109.mp4",
        "RealVideo-FakeAudio/African/men/id00076/00109_fake.mp4",
        "FakeVideo-RealAudio/African/men/id00076/00109_1.mp4",
    ]
    assert [(f.video_label, f.audio_label) for f in files] == [(0, 0), (0, 1), (1, 0)]
    assert [f.method for f in files] == ["real", "rtvc", "faceswap-wav2lip"]
    assert (files[0].target_id, files[2].source_id, files[2].target_id) == ("", "id00076", "id00166")


def test_realset_manifest(realset: Path, tmp_path: Path) -> None:
    clips = build_manifest(Workspace(tmp_path), small_params(realset))
    assert len(clips) + len(read_quarantine(Workspace(tmp_path).quarantine("manifest"))) == 341
    assert {c.category for c in clips} == {"RVRA", "FVRA", "RVFA", "FVFA", "RV-", "FV-"}
