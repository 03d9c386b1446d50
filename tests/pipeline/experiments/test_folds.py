"""Protocols on tables of clips: nobody on two sides, everybody tested, nothing seen that should not be."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache_schemas.manifest import Clip, ManifestError
from pipeline.experiments.folds import BUILT_IN, Fold, Protocol, Skipped, folds_of, read_protocol
from pipeline.params import ParamsError


def clip(number: int, person: str, *, fake: int, dataset: str = "a", method: str = "swap", donor: str = "") -> Clip:
    return Clip(
        clip_id=f"c{number:04}", path=f"{number}.mp4", dataset=dataset, subject_id=person, source_id=donor,
        target_id="", video_label=fake, audio_label=0, label=fake, category="FVRA" if fake else "RVRA",
        method=method if fake else "real", split="train", file_bytes=1, group=f"group {int(person[1:]) % 2}",
    )  # fmt: skip


def collection(n_people: int = 24) -> list[Clip]:
    """Of each person a real clip and two fakes of different methods; every third person in data set b."""
    found = []
    for p in range(n_people):
        dataset = "b" if p % 3 == 0 else "a"
        for fake, method in ((0, ""), (1, "swap"), (1, ("lips", "voice")[p % 2])):
            found.append(clip(len(found), f"p{p}", fake=fake, dataset=dataset, method=method))
    return found


@st.composite
def collections(draw: st.DrawFn) -> list[Clip]:
    """Any clips, with donors who join people."""
    count, n_people = draw(st.integers(5, 80)), draw(st.integers(1, 30))
    found = []
    for i in range(count):
        person, donor = (f"p{draw(st.integers(0, n_people - 1))}" for _ in range(2))
        fake = draw(st.integers(0, 1))
        dataset, method = draw(st.sampled_from("abc")), draw(st.sampled_from(["swap", "lips"]))
        found.append(clip(i, person, fake=fake, dataset=dataset, method=method, donor=donor if fake else ""))
    return found


@settings(max_examples=60, deadline=None)
@given(collections(), st.sampled_from(sorted(BUILT_IN)), st.integers(0, 3))
def test_nobody_who_is_tested_was_learnt_from(clips: list[Clip], name: str, seed: int) -> None:
    protocol = BUILT_IN[name]
    try:
        found = folds_of(protocol, clips, seed=seed)
    except ManifestError:  # too few people, or one class only
        return
    for fold in found:
        if isinstance(fold, Skipped):
            assert fold.reason
            continue
        people = {
            side: {person for c, s in zip(clips, fold.split, strict=True) if s == side for person in c.people}
            for side in ("train", "val", "test")
        }
        assert not people["test"] & (people["train"] | people["val"])
        assert not people["train"] & people["val"]
        for side in ("train", "val"):
            assert {c.label for c, s in zip(clips, fold.split, strict=True) if s == side} == {0, 1}
        assert [bool(name) for name in fold.tested_as] == [side == "test" for side in fold.split]


def trainings(name: str, **changes: object) -> list[Fold]:
    found = folds_of(BUILT_IN[name].model_copy(update=changes), collection(), seed=0)
    assert all(isinstance(fold, Fold) for fold in found), found
    return [fold for fold in found if isinstance(fold, Fold)]


def test_each_clip_is_tested_once_by_people_folds() -> None:
    folds = trainings("people")
    tested = [i for fold in folds for i, side in enumerate(fold.split) if side == "test"]
    assert sorted(tested) == list(range(72))
    assert {fold.trained_on for fold in folds} == {"other people"}


def test_within_a_data_set_no_other_is_used() -> None:
    clips = collection()
    folds = trainings("in-data-set", folds=3)
    assert [fold.trained_on for fold in folds] == ["a"] * 3 + ["b"] * 3
    for fold in folds:
        used = {c.dataset for c, side in zip(clips, fold.split, strict=True) if side}
        assert used == {fold.trained_on}


def test_a_left_out_source_is_tested_whole_and_never_seen() -> None:
    clips = collection()
    for fold, value in zip(trainings("leave-one-source-out"), "ab", strict=True):
        assert fold.trained_on == f"all but {value}"
        assert {c.dataset for c, side in zip(clips, fold.split, strict=True) if side == "test"} == {value}
        assert sum(side == "test" for side in fold.split) == sum(c.dataset == value for c in clips)


def test_a_left_out_method_is_never_seen_and_tested_with_real_clips_of_other_people() -> None:
    clips = collection()
    folds = trainings("leave-one-method-out", folds=4)
    assert list(dict.fromkeys(fold.trained_on for fold in folds)) == ["all but lips", "all but swap", "all but voice"]
    for method in ("lips", "swap", "voice"):
        parts = [fold for fold in folds if fold.trained_on == f"all but {method}"]
        sides = {
            side: [c for fold in parts for c, s in zip(clips, fold.split, strict=True) if s == side]
            for side in ("train", "val", "test")
        }
        assert {c.method for c in sides["test"]} == {"real", method}
        assert all(c.method != method for c in sides["train"] + sides["val"])
        assert sorted(c.clip_id for c in sides["test"]) == [c.clip_id for c in clips if c.method in ("real", method)]


def test_each_data_set_tests_on_every_one() -> None:
    clips = collection()
    for fold in trainings("cross-data-set", folds=3):
        tested = {name for name in fold.tested_as if name}
        assert tested == {"a", "b"}
        learnt = {c.dataset for c, side in zip(clips, fold.split, strict=True) if side in ("train", "val")}
        assert learnt == {fold.trained_on}


def test_only_what_is_asked_for_is_used() -> None:
    clips = collection()
    (fold, *_) = trainings("people", only={"method": ["swap"], "dataset": ["a"]})
    assert {(c.method, c.dataset) for c, side in zip(clips, fold.split, strict=True) if side} == {
        ("real", "a"),
        ("swap", "a"),
    }


def test_what_cannot_be_trained_says_why() -> None:
    one_class = [clip(i, f"p{i}", fake=int(i >= 20), dataset="a" if i < 20 else "b") for i in range(40)]
    with pytest.raises(ManifestError, match=r"only fake clips to train on; only real clips to train on"):
        folds_of(BUILT_IN["leave-one-source-out"], one_class, seed=0)
    with pytest.raises(ManifestError, match="unrelated subjects cannot fill"):
        folds_of(BUILT_IN["people"], one_class[:3], seed=0)


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("kind: leave-one-out\nby: method\nfolds: 4\nmethods: [search]\n")
    assert read_protocol(str(path)) == (
        "mine", Protocol(kind="leave-one-out", by="method", folds=4, methods=("search",))
    )  # fmt: skip
    assert read_protocol("people") == ("people", BUILT_IN["people"])
    for content, said in {
        "kind: leave-one-out": "by: None: kind leave-one-out needs one",
        "kind: people\nby: group": "by: group: kind people takes none",
        "kind: guess": "kind: Input should be",
        "kind: people\nfold: 3": r"fold: Extra inputs .*fields: .*folds",
        "- 1": r"field \(file\): Input should be a valid dictionary",
        "a: [": "cannot be read as YAML",
    }.items():
        path.write_text(content)
        with pytest.raises(ParamsError, match=said):
            read_protocol(str(path))
    with pytest.raises(ParamsError, match="neither such a file nor such a name: people, in-data-set"):
        read_protocol("nothing")
