"""`bmnas manifest --check`: leaks, shortcuts, copies, damaged files; what a killed run keeps."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.manifest import Clip, category_of, check_splits, find_leaks, read_quarantine
from pipeline.cli import main
from pipeline.datasets import LAYOUTS
from pipeline.manifest.build import build_manifest
from pipeline.manifest.check import check, check_manifest
from pipeline.manifest.facts import ClipFacts, clip_facts
from pipeline.manifest.splits import assign_splits, identity_components
from pipeline.media import process
from pipeline.params import Params, SplitParams, WindowParams
from pipeline.workspace import Workspace
from tests.pipeline.clips import H264, make_clip
from tests.pipeline.conftest import small_params
from tests.pipeline.tiny import SECONDS, TinyClips

SPLITS = ("train", "val", "test")
FACTS = ClipFacts(2.0, 25.0, 128, 128, "mov,mp4", "h264", "aac", 16000, "mono", -20.0, 0.0, 2.0, 1.0, "bt709", 8, False)


def clip(number: int, people: list[str], *, split: str = "train", fake: int = 0, audio: int = 0, **more: Any) -> Clip:
    """The first of `people` is the subject, the others are in it too."""
    return Clip(
        f"c{number}", f"{number}.mp4", "d", people[0], ";".join(people[1:2]), ";".join(people[2:]), fake, audio,
        int(bool(fake or audio)), category_of(fake, audio), "swap" if fake or audio else "real", split, 1000 + number,
        **more,
    )  # fmt: skip


person = st.sampled_from([f"p{i}" for i in range(20)])
cast = st.lists(person, min_size=1, max_size=4, unique=True)


@settings(max_examples=60)
@given(st.lists(st.tuples(cast, st.booleans()), min_size=1, max_size=40), st.integers(0, 3))
def test_a_split_by_subject_never_leaks(rows: list[tuple[list[str], bool]], seed: int) -> None:
    clips = [clip(i, people, fake=int(fake)) for i, (people, fake) in enumerate(rows)]
    clips += [clip(100 + i, [f"alone{i}"]) for i in range(3)]
    result, _ = assign_splits(clips, SplitParams(), seed=seed)
    assert find_leaks(result) == []
    check_splits(result)


@settings(max_examples=60)
@given(st.lists(cast, min_size=2, max_size=30), st.data())
def test_a_planted_leak_is_always_found(casts: list[list[str]], data: st.DataObject) -> None:
    split_of = {who: data.draw(st.sampled_from(SPLITS)) for who in sorted({w for people in casts for w in people})}
    # Everybody of a clip in one split (that of the first): nobody leaks but by a clip that brings them elsewhere.
    clips = [
        clip(i, [w for w in people if split_of[w] == split_of[people[0]]], split=split_of[people[0]])
        for i, people in enumerate(casts)
    ]
    assert find_leaks(clips) == []
    victim = data.draw(st.sampled_from(clips))
    who = data.draw(st.sampled_from(sorted(victim.people)))
    elsewhere = data.draw(st.sampled_from([split for split in SPLITS if split != victim.split]))
    role = data.draw(st.integers(0, 2))
    planted = clip(999, [*["stranger1", "stranger2"][:role], who], split=elsewhere)
    leaks = find_leaks([*clips, planted])
    assert [leak.person for leak in leaks] == [who]
    assert {split: len(found) for split, found in leaks[0].clips.items()} == {
        split: number
        for split in SPLITS
        if (number := sum(who in each.people and each.split == split for each in [*clips, planted]))
    }


@settings(max_examples=20)
@given(
    st.lists(st.integers(1, 4), min_size=60, max_size=90),
    st.sampled_from([0.1, 0.2, 0.3]),
    st.sampled_from([0.1, 0.25]),
    st.integers(0, 3),
)
def test_shares_are_met_where_people_allow_it(sizes: list[int], val: float, test: float, seed: int) -> None:
    clips = [clip(10 * i + k, [f"p{i}"], fake=k % 2) for i, size in enumerate(sizes) for k in range(size)]
    result, _ = assign_splits(clips, SplitParams(val=val, test=test), seed=seed)
    for split, share in (("train", 1 - val - test), ("val", val), ("test", test)):
        assert sum(c.split == split for c in result) / len(clips) == pytest.approx(share, abs=0.05)


@given(st.lists(cast, min_size=1, max_size=20))
def test_components_are_the_smallest_groups_that_share_nobody(casts: list[list[str]]) -> None:
    groups = identity_components([clip(i, people) for i, people in enumerate(casts)])
    everybody = [{who for each in group for who in each.people} for group in groups]
    assert sum(map(len, everybody)) == len(set().union(*everybody))
    for group in groups:  # each group hangs together: growing from its first clip reaches all
        reached = set(group[0].people)
        while grown := [each for each in group if each.people & reached and not each.people <= reached]:
            reached |= {who for each in grown for who in each.people}
        assert reached == {who for each in group for who in each.people}


def checked(clips: list[Clip], facts: Callable[[Clip], ClipFacts] = lambda _: FACTS, **windows: Any) -> dict[str, Any]:
    found = {each.clip_id: facts(each) for each in clips}
    result = check(clips, found, [], split=SplitParams(), windows=WindowParams(**windows), layout=LAYOUTS["csv"])
    json.dumps(result, allow_nan=False)
    return result


def balanced(people: int = 30) -> list[Clip]:
    """Four clips of each person, nothing to warn of."""
    return [
        clip(4 * p + k, [f"p{p}"], fake=k % 2, audio=k // 2, split=("train", "train", "train", "val", "test")[p % 5])
        for p in range(people)
        for k in range(4)
    ]


def test_a_sound_data_set_has_nothing_to_warn_of_but_its_size() -> None:
    result = checked(balanced(150))
    assert result["warnings"] == []
    assert not any(entry["suspicious"] for entry in result["shortcuts"])
    assert result["counts"][0] == {"split": "train", "category": "FVFA", "method": "swap", "clips": 90}
    assert result["people"]["splits"]["val"] == {
        "clips": 120, "real_clips": 30, "fake_clips": 90, "subjects": 30, "people": 30,
    }  # fmt: skip
    assert any("too few to claim an accuracy" in text for text in checked(balanced(20))["warnings"])


@pytest.mark.parametrize(
    ("change", "name", "label", "value"),
    [
        (lambda c: {"leading_silence_s": 0.2 if c.audio_label else 0.0}, "leading_silence_s", "audio_label", None),
        (lambda c: {"video_codec": "mpeg4" if c.video_label else "h264"}, "video_codec", "video_label", "mpeg4"),
        (lambda c: {"transfer": "smpte2084" if c.label else "bt709"}, "transfer", "label", "smpte2084"),
        (lambda c: {"bit_depth": 10 if c.video_label else 8}, "bit_depth", "video_label", None),
        (lambda c: {"pixel_aspect": 1.0 if c.label else 0.8}, "pixel_aspect", "label", None),
        (lambda c: {"interlaced": not c.label}, "interlaced", "label", None),
        (lambda c: {"width_px": 224 if c.label else 256}, "resolution", "label", "224x128"),
        (lambda c: {"loudness_db": None} if c.audio_label else {}, "loudness_db", "audio_label", None),
        (
            lambda c: dict.fromkeys(("audio_codec", "loudness_db", "channels")) if c.video_label else {},
            "has_audio",
            "video_label",
            None,
        ),
    ],
)
def test_a_planted_shortcut_is_loud(
    change: Callable[[Clip], dict[str, Any]], name: str, label: str, value: str | None
) -> None:
    result = checked(balanced(), lambda each: ClipFacts(**{**vars(FACTS), **change(each)}))
    entry = next(each for each in result["shortcuts"] if each["property"] == name)
    assert entry["suspicious"]
    assert entry[label]["auc"] == 1.0
    if name == "has_audio":  # what the absence of sound tells, it tells alone
        told = {each["property"] for each in result["shortcuts"] if each["suspicious"]}
        assert told == {"has_audio"}
    assert value is None or entry[label]["value"] in (value, "h264", "256x128")
    assert any(f"{name} " in text and " 1.00" in text for text in result["warnings"])


def test_what_is_known_of_one_class_only_is_known_but_tells_nothing() -> None:
    """Only real clips have sound, all of one codec: there is nothing to compare it with."""
    mute = dict.fromkeys(("audio_codec", "loudness_db", "channels", "sample_rate_hz", "leading_silence_s"))
    result = checked(balanced(), lambda each: ClipFacts(**{**vars(FACTS), **(mute if each.label else {})}))
    heard = sum(not each.label for each in balanced())
    for name in ("audio_codec", "loudness_db"):
        told = next(each for each in result["shortcuts"] if each["property"] == name)["label"]
        assert (told["auc"], told["known"], told["clips"]) == (None, heard, heard)
        assert "value" not in told


def test_how_many_seconds_are_used() -> None:
    lengths = {
        "c0": {"duration_s": 9.0, "sound_s": 8.6, "leading_silence_s": 0.2},  # 0.4 s without sound, 0.2 s of silence
        "c1": {"duration_s": 41.0, "sound_s": 41.0},  # of eleven windows eight
        "c2": {"duration_s": 5.0, "sound_s": None, "leading_silence_s": None, "audio_codec": None},
        "c3": {"duration_s": None, "reason": "not a video"},
    }
    clips = [clip(0, ["a"]), clip(1, ["b"], fake=1), clip(2, ["c"], fake=1), clip(3, ["d"])]
    found = checked(clips, lambda each: replace(FACTS, **lengths[each.clip_id]))["seconds"]
    assert found == {
        "real": {"clips": 1, "seconds": 9.0, "used": pytest.approx(8.4), "clips_cut": 0},
        "fake": {"clips": 2, "seconds": 46.0, "used": pytest.approx(32.0), "clips_cut": 1},
    }
    mute = checked(clips[2:3], lambda each: replace(FACTS, **lengths["c2"]), missing_modality="visual_only")
    assert mute["seconds"]["fake"]["used"] == 5.0
    short = checked(clips[:1], lambda _: replace(FACTS, duration_s=3.0, sound_s=3.0), short_clip="quarantine")
    assert short["seconds"]["real"]["used"] == 0.0


def test_uneven_data_are_called_so() -> None:
    hub = [clip(i, [f"a{i}", "hub"], fake=1) for i in range(40)]
    rest = [clip(100 + i, [f"r{i}"], split=("val", "test")[i % 2]) for i in range(3)]
    said = " ".join(checked(hub + rest)["warnings"])
    for text in (
        "The val split lacks FVRA clips.",
        "The train split holds 93% of the clips, not 60%",
        "3 real and 40 fake clips",
        "holds 40 of 43 clips",
        "Only 0 of 43 subjects have both real and fake clips",
    ):
        assert text in said


def write_folders(root: Path, tiny: TinyClips, people: int = 4) -> Params:
    for number in range(people):
        tiny.put(root / "real" / f"p{number}" / "1.mp4")
        tiny.put(root / "fake" / f"p{number}" / "1.mp4", fake=True)
    return small_params(root, data={"root": str(root), "layout": "folders"}, compute={"workers": 2})


def test_what_is_measured_of_real_files(tmp_path: Path, tiny: TinyClips) -> None:
    params, workspace = write_folders(tmp_path / "data", tiny), Workspace(tmp_path / "work")
    build_manifest(workspace, params)
    found = check_manifest(workspace, params)["properties"]
    assert found["leading_silence_s"]["real"]["max"] < 0.2
    assert found["leading_silence_s"]["fake"]["min"] > 0.45
    assert found["duration_s"]["real"]["median"] == pytest.approx(SECONDS, abs=0.05)
    assert found["fps"]["fake"]["median"] == pytest.approx(25)
    assert found["sample_rate_hz"]["fake"]["median"] == 16000
    assert found["loudness_db"]["real"]["known"] == 4
    for name, value in (
        ("video_codec", "h264"),
        ("audio_codec", "aac"),
        ("channels", "mono"),
        ("resolution", "128x128"),
    ):
        assert found[name]["real"]["values"] == {value: 4}


def test_copies_are_dropped_and_contradictions_altogether(tmp_path: Path, tiny: TinyClips) -> None:
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    params = write_folders(root, tiny)
    shutil.copy(root / "real" / "p0" / "1.mp4", root / "real" / "p0" / "again.mp4")
    shutil.copy(root / "real" / "p1" / "1.mp4", root / "fake" / "p1" / "contradiction.mp4")
    clips = build_manifest(workspace, params)
    assert "real/p1/1.mp4" not in {each.path for each in clips}
    reasons = {row.path: row.reason for row in read_quarantine(workspace.quarantine("manifest"))}
    assert reasons == {
        "real/p0/again.mp4": "the same content as real/p0/1.mp4",
        "real/p1/1.mp4": "the same content as fake/p1/contradiction.mp4, and the labels contradict each other",
        "fake/p1/contradiction.mp4": "the same content as real/p1/1.mp4, and the labels contradict each other",
    }
    result = check_manifest(workspace, params)
    kept = {each["kept"]: each["dropped"] for each in result["duplicates"]}
    assert kept == {
        "real/p0/1.mp4": ["real/p0/again.mp4"],
        None: ["fake/p1/contradiction.mp4", "real/p1/1.mp4"],
    }
    assert any("CONTRADICT" in text for text in result["warnings"])


def test_one_bad_file_stops_nothing(tmp_path: Path, tiny: TinyClips) -> None:
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    params = write_folders(root, tiny)
    (root / "real" / "p0" / "text.mp4").write_text("not a video")
    whole = (root / "real" / "p1" / "1.mp4").read_bytes()
    (root / "real" / "p1" / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    clips = build_manifest(workspace, params)
    result = check_manifest(workspace, params)
    assert result["clips"] == len(clips) == 10
    assert sum(result["unusable"]["clips"].values()) == 2
    assert any("2 clips cannot be decoded" in text for text in result["warnings"])
    assert result["properties"]["duration_s"]["real"]["known"] == 4


def test_a_run_that_was_killed_goes_on(tmp_path: Path, tiny: TinyClips, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured is not measured again; the line that was being written is."""
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    params = write_folders(root, tiny)
    build_manifest(workspace, params)
    whole = check_manifest(workspace, params)
    store = workspace.check / "facts.jsonl"
    lines = store.read_text().splitlines(keepends=True)
    store.write_text("".join(lines[:5]) + lines[5][:40])
    opened: list[Path] = []
    from pipeline.manifest import facts

    real_measure = facts._measure
    monkeypatch.setattr(facts, "_measure", lambda path, *more: (opened.append(path), real_measure(path, *more))[1])
    assert check_manifest(workspace, params) == whole
    assert len(opened) == 3
    assert store.read_text().splitlines(keepends=True) == lines


def test_what_could_not_be_measured_for_another_reason_than_its_content_is_measured_again(
    tmp_path: Path, tiny: TinyClips, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    params = write_folders(root, tiny)
    build_manifest(workspace, params)
    with monkeypatch.context() as patched:
        patched.setattr(process, "WALL_SECONDS", 0.0)
        waited = check_manifest(workspace, params)
    assert sum(waited["unusable"]["clips"].values()) == 8
    assert check_manifest(workspace, params)["unusable"]["clips"] == {}


def test_what_is_special_about_a_picture_is_measured(tmp_path: Path) -> None:
    special = ["-vf", "setsar=12/11,setparams=field_mode=tff:color_trc=arib-std-b67", "-pix_fmt", "yuv420p10le"]
    for sound in (None, "sine=f=440"):
        path = make_clip(tmp_path / "a.mp4", *special, *H264, "-flags", "+ildct", sound=sound, seconds=0.2)
        facts = clip_facts(tmp_path, replace(clip(0, ["p"]), path=path.name), small_params(tmp_path))
        assert (facts.transfer, facts.bit_depth, facts.interlaced) == ("arib_std_b67", 10, True)
        assert (facts.width_px, facts.pixel_aspect) == (70, 1.0909)


def test_the_command_prints_tables_or_json(
    tmp_path: Path, tiny: TinyClips, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path / "data", tiny)
    (tmp_path / "params.yaml").write_text("{}")
    monkeypatch.chdir(tmp_path)

    def bmnas(*options: str) -> tuple[int, str, str]:
        arguments = ["bmnas", "manifest", "--layout", "folders", "--root", "data", *options]
        monkeypatch.setattr(sys, "argv", arguments)
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), *capfd.readouterr()

    code, out, _ = bmnas("--check")
    assert code == 0
    for text in (
        "People",
        "!! leading_silence_s",
        "Container and sound",
        "warnings",
        "the folder below real/ or fake/",
        "% of the 6 s of real clips and ",
    ):
        assert text in " ".join(out.split())
    code, out, _ = bmnas("--check", "--json")
    assert (code, json.loads(out)) == (0, json.loads((tmp_path / "work" / "check" / "manifest.json").read_text()))
    code, _, err = bmnas("--split", "official")
    assert code == 1
    assert "use split.kind: subject" in " ".join(err.split())
    code, _, err = bmnas("--split", "authors")
    assert code == 2
    assert "'subject', 'people' or 'official'" in err


def test_the_real_recordings_sources_tell_the_label(realset: Path, tmp_path: Path) -> None:
    header, *rows = (realset / "manifest.csv").read_text().splitlines()
    root, workspace = tmp_path / "data", Workspace(tmp_path / "work")
    (root / "clips").mkdir(parents=True)
    for row in rows[::6]:
        name = row.split(",")[1]
        shutil.copy(realset / name, root / name)
    (root / "manifest.csv").write_text("\n".join([header, *rows[::6]]))
    params = small_params(root, compute={"workers": 2})
    clips = build_manifest(workspace, params)
    result = check_manifest(workspace, params)
    assert result["clips"] == len(clips) == len(rows[::6])
    assert result["unusable"]["clips"] == {}
    assert result["leaks"] == {"split": [], "official": []}
    told = {entry["property"] for entry in result["shortcuts"] if entry["suspicious"]}
    assert {"height_px", "video_codec", "dataset"} <= told
