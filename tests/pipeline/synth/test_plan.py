"""The plan of a synthetic data set: categories, methods, pairs, growth, and what is left to do."""

from collections import Counter

import pytest

from pipeline.synth.generate import plan_work
from pipeline.synth.plan import AUDIO_METHODS, CATEGORIES, VIDEO_METHODS, ClipSpec, plan_clips


def plan(identities: int = 16, clips_per_identity: int = 8) -> list[ClipSpec]:
    return plan_clips(identities=identities, clips_per_identity=clips_per_identity, difficulty=0.3, seed=0)


def test_default_size_has_equal_categories_and_methods() -> None:
    specs = plan()
    assert len(specs) == 128
    assert Counter(s.category for s in specs) == dict.fromkeys(CATEGORIES, 32)
    for category in ("FVRA", "FVFA"):
        counts = Counter(s.video_method for s in specs if s.category == category)
        assert counts == dict.fromkeys(VIDEO_METHODS, 16)
    for category in ("RVFA", "FVFA"):
        counts = Counter(s.audio_method for s in specs if s.category == category)
        assert counts == dict.fromkeys(AUDIO_METHODS, 16)
    both = Counter(s.method for s in specs if s.category == "FVFA")
    assert both == {f"{v}+{a}": 8 for v in VIDEO_METHODS for a in AUDIO_METHODS}


@pytest.mark.parametrize("clips_per_identity", [1, 2, 3, 5, 6, 7])
def test_categories_and_methods_stay_fair_when_a_take_is_cut_short(clips_per_identity: int) -> None:
    specs = plan(16, clips_per_identity)
    assert set(Counter(s.category for s in specs).values()) == {4 * clips_per_identity}
    for counts in (
        Counter(s.video_method for s in specs if s.video_method),
        Counter(s.audio_method for s in specs if s.audio_method),
    ):
        assert len(counts) == 2
        assert len(set(counts.values())) == 1


def test_a_larger_plan_contains_the_smaller_one() -> None:
    small = set(plan(3, 5))
    assert small < set(plan(4, 5))
    assert small < set(plan(3, 6))


def test_rows_are_sorted_labelled_and_joined_in_pairs() -> None:
    rows = [spec.row() for spec in plan(5, 8)]
    assert [r["path"] for r in rows] == sorted(str(r["path"]) for r in rows)
    for row in rows:
        assert ",".join(row) == (
            "path,dataset,subject_id,source_id,target_id,video_label,audio_label,label,category,method"
        )
        video, audio = int(row["category"][0] == "F"), int(row["category"][2] == "F")  # type: ignore[index]
        assert (row["video_label"], row["audio_label"], row["label"]) == (video, audio, video | audio)
        assert row["target_id"] == row["subject_id"]
        borrows = "face-swap" in str(row["method"]) or "formant-transfer" in str(row["method"])
        assert bool(row["source_id"]) == borrows
    partners = {(r["subject_id"], r["source_id"]) for r in rows if r["source_id"]}
    # The odd one out borrows from a partner that owns no clips, or growing by one would change its clips.
    assert partners == {
        ("id00000", "id00001"),
        ("id00001", "id00000"),
        ("id00002", "id00003"),
        ("id00003", "id00002"),
        ("id00004", "id00005"),
    }


def test_work_keeps_finished_clips_and_clears_what_is_not_wanted() -> None:
    specs = plan(2, 4)
    names = [s.file_name for s in specs]
    present = {
        names[0],
        names[1],
        names[2] + ".partial",
        "." + names[3] + ".x1_y.tmp",
        "id00009_t0000_RVRA.mp4",
        names[1] + ".bak",
        "holiday.mp4",
        ".gitignore",
    }
    render, remove = plan_work(specs, present, same_params=True)
    assert [s.file_name for s in render] == names[2:]
    assert remove == ["." + names[3] + ".x1_y.tmp", names[2] + ".partial", "id00009_t0000_RVRA.mp4"]
    render, remove = plan_work(specs, present, same_params=False)
    assert render == specs
    assert set(remove) == present - {"holiday.mp4", ".gitignore", names[1] + ".bak"}
