"""The manifest stage: layouts, splits by person, files that cannot be opened."""

import csv
from pathlib import Path

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
    result = assign_splits(clips + alone, SplitParams(), seed=seed)
    check_splits(result)
    assert {c.split for c in result} == {"train", "val", "test"}
    assert result == assign_splits(clips + alone, SplitParams(), seed=seed)


def test_fewer_people_than_splits_are_refused() -> None:
    with pytest.raises(ManifestError, match="2 unrelated subjects cannot fill"):
        assign_splits([clip(0, "a"), clip(1, "b"), clip(2, "b")], SplitParams(), seed=0)


def test_splits_are_stratified_and_depend_on_the_seed() -> None:
    clips = [clip(8 * s + k, f"s{s}", video=k % 2, audio=k // 2 % 2) for s in range(40) for k in range(8)]
    first, second = (assign_splits(clips, SplitParams(val=0.25, test=0.25), seed=seed) for seed in (0, 1))
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
    with pytest.raises(ManifestError, match=r"6 of 12 files .* more than max_failed_fraction 0\.4"):
        build_manifest(workspace, small_params(root, max_failed_fraction=0.4))


def test_git_lfs_pointers_are_called_so_and_the_commonest_reason_is_told(tmp_path: Path) -> None:
    write_csv(tmp_path / "manifest.csv", csv_rows(6))
    for number in range(6):
        (tmp_path / f"v{number}.mp4").write_text(
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{number:064}\nsize 12345\n" if number else "x"
        )
    with pytest.raises(ManifestError, match=r"5 of 6 files cannot be used.*most often, 5 times: .*`git lfs pull`"):
        build_manifest(Workspace(tmp_path / "work"), small_params(tmp_path))


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
