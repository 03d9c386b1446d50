"""When a score is no answer: limits that hold for clips and people to come, and what is said of a clip beyond one."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics.answers import QUANTITIES, Answer, answer
from pipeline.statistics.limits import distance_limit, fit_systems, scored_clips, upper_limit, withheld

NAN = float("nan")


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=300), st.sampled_from([0.025, 0.05, 0.2]))
def test_at_most_the_share_is_left_out(values: list[float], left_out: float) -> None:
    limit = upper_limit(values, left_out=left_out)
    assert limit in values
    assert (np.array(values) > limit).mean() <= left_out
    assert upper_limit([*values, NAN], left_out=left_out) == limit


def test_the_quantile_counts_the_clip_to_come() -> None:
    """Of 19 clips the highest is 95 %; of 39 the second highest would do for them, but not for one more."""
    assert upper_limit(np.arange(19), left_out=0.05) == 18
    assert upper_limit(np.arange(18), left_out=0.05) == 17  # the largest there is
    assert upper_limit(np.arange(39), left_out=0.05) == 37
    assert upper_limit([1.0], left_out=0.05) is None
    assert upper_limit([NAN, NAN], left_out=0.05) is None


@pytest.mark.parametrize(("people", "clips"), [(3, 8), (4, 8), (12, 5), (25, 4)])
def test_no_more_of_new_people_than_the_share_are_left_out(people: int, clips: int) -> None:
    """Every person has a distance of their own; the quantile of few people's clips alone leaves out far more."""
    random, left_out, naive = np.random.default_rng(0), [], []
    for _ in range(400):
        x = np.exp(
            0.2 * np.repeat(random.standard_normal(people), clips) + 0.1 * random.standard_normal(people * clips)
        )
        new = np.exp(0.2 * random.standard_normal(200) + 0.1 * random.standard_normal(200))
        left_out.append((new > distance_limit(x, np.repeat(np.arange(people), clips), left_out=0.05)).mean())
        naive.append((new > upper_limit(x, left_out=0.05)).mean())
    assert np.mean(left_out) < 0.06
    assert people > 12 or np.mean(naive) > np.mean(left_out)
    assert people > 4 or np.mean(naive) > 0.09


def test_one_person_bounds_a_distance_by_the_clips() -> None:
    x = [1.0, 1.1, 1.2, 1.3]
    assert distance_limit(x, ["a"] * 4, left_out=0.05) > 1.4
    assert distance_limit([1.0, NAN, NAN], ["a", "b", "c"], left_out=0.05) is None
    assert distance_limit([0.0, 0.0, 0.0], ["a", "b", "c"], left_out=0.05) == 0


def tables(*, people: int = 12, seeds: int = 3) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(clips, scores) of well-told clips, half of the people's in val, half in test; two windows each."""
    random, clips, scores = np.random.default_rng(0), [], []
    for person in range(people):
        for take in range(4):
            label, clip_id = take % 2, f"c{person}-{take}"
            clips.append(
                {
                    "clip_id": clip_id, "subject_id": f"p{person}", "split": ("val", "test")[person % 2],
                    "label": label, "face_share": 1.0, "speech_s": 3.0, "visual_distance": random.uniform(1, 1.2),
                    "audio_distance": random.uniform(1, 1.2),
                }
            )  # fmt: skip
            for system in ("fusion", "visual", "audio"):
                for seed in range(seeds):
                    for window in range(2):
                        score = float(np.clip(0.5 + (label - 0.5) * 0.6 + random.normal(0, 0.1), 0.01, 0.99))
                        scores.append(
                            {"clip_id": clip_id, "system": system, "seed": seed, "window": window, "score": score}
                        )
    return pd.DataFrame(clips), pd.DataFrame(scores)


def answers(table: pd.DataFrame, network: str) -> list[Answer]:
    """What the network says of each clip of a table."""
    rows = [{name: float(row[name]) for name in ("score", *QUANTITIES["fusion"])} for _, row in table.iterrows()]
    return [answer(row["score"], row, SYSTEMS[network]) for row in rows]


CLIPS, SCORES = tables()
SYSTEMS, UNDEFINED = fit_systems(CLIPS, SCORES)


def test_a_scored_clips_by_hand() -> None:
    clips = pd.DataFrame({"clip_id": ["a", "b"], "split": ["val", "test"]})
    scores = pd.DataFrame(
        [
            ["a", 0, "fusion", 0, 0.1],
            ["a", 1, "fusion", 0, 0.3],
            ["a", 0, "fusion", 1, 0.8],
            ["a", 1, "fusion", 1, 0.6],
            ["a", 0, "audio", 1, 0.9],
        ],
        columns=["clip_id", "window", "system", "seed", "score"],
    )
    table = scored_clips(clips, scores, "fusion")
    assert list(table.index) == ["a"]
    assert np.isnan(table.loc["a", "face_share"])
    assert table.loc["a", ["score", "spread", "split"]].tolist() == [pytest.approx(0.45), pytest.approx(0.5), "val"]
    assert np.isnan(scored_clips(clips, scores, "audio").loc["a", "spread"])


def test_limits_are_those_of_val_alone() -> None:
    moved = CLIPS.assign(visual_distance=CLIPS["visual_distance"].mask(CLIPS["split"] == "test", 99.0))
    assert fit_systems(moved, SCORES)[0] == SYSTEMS
    moved = CLIPS.assign(visual_distance=CLIPS["visual_distance"].mask(CLIPS["split"] == "val", 99.0))
    assert fit_systems(moved, SCORES)[0] != SYSTEMS
    assert UNDEFINED == {}


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("face_share", 0.2, "too little face: seen in 20% of the pictures looked at, at least 25% needed"),
        ("speech_s", 0.4, "too little sound: 0.40 s above silence, at least 1 s needed"),
        ("visual_distance", 9.0, "unlike anything it was trained on: its picture lies at a distance of 9.00"),
        ("audio_distance", 9.0, "unlike anything it was trained on: its sound lies at a distance of 9.00"),
        ("spread", 0.95, "the networks disagree: their P(fake) differ by 0.95"),
    ],
)
def test_each_reason_is_given_alone_and_in_words(column: str, value: float, said: str) -> None:
    table = scored_clips(CLIPS, SCORES, "fusion").iloc[:2]
    told = answers(table.assign(**{column: [value, table[column].iloc[1]]}), "fusion")
    first, second = told
    assert first.says.startswith(f"cannot tell: {said}")
    assert len(first.reasons) == 1
    assert (first.log10_lr, first.probability) == (None, None)
    assert first.score == table["score"].iloc[0]
    assert not second.reasons
    assert "support" in second.says


def test_each_network_is_asked_for_what_it_looks_at() -> None:
    table = scored_clips(CLIPS, SCORES, "visual").iloc[:1].assign(speech_s=0.1, audio_distance=99.0)
    assert not withheld(table, SYSTEMS["visual"]).any(axis=None)
    table = scored_clips(CLIPS, SCORES, "audio").iloc[:1].assign(face_share=0.0, visual_distance=99.0)
    assert not withheld(table, SYSTEMS["audio"]).any(axis=None)


def test_a_clip_without_sound_is_judged_by_its_picture_and_by_nothing_else() -> None:
    mute = scored_clips(CLIPS, SCORES, "fusion").iloc[:1].assign(speech_s=0.0, audio_distance=NAN)
    assert not withheld(mute, SYSTEMS["fusion"]).any(axis=None)
    assert withheld(mute, SYSTEMS["audio"])["speech_s"].all()


def test_what_is_not_known_withholds_nothing() -> None:
    names = ["face_share", "speech_s", "visual_distance", "audio_distance", "spread"]
    table = scored_clips(CLIPS, SCORES, "fusion").assign(**dict.fromkeys(names, NAN))
    assert not withheld(table, SYSTEMS["fusion"]).any(axis=None)


def test_an_answer_stays_within_what_val_supports() -> None:
    table = scored_clips(CLIPS, SCORES, "fusion").assign(spread=0.0)
    told = answers(table.assign(score=np.linspace(0, 1, len(table))), "fusion")
    lrs = [each.log10_lr for each in told]
    assert lrs == sorted(lrs)
    low, high = SYSTEMS["fusion"].low, SYSTEMS["fusion"].high
    assert low == lrs[0] < 0 < lrs[-1] == high <= np.log10(13)  # twelve clips of each class
    last = told[-1]
    assert last.limits == (low, high)
    assert last.probability == pytest.approx(10**high / (1 + 10**high))
    assert last.says == "moderate support for a fake"


def test_a_val_split_of_one_class_says_nothing_and_why() -> None:
    systems, undefined = fit_systems(CLIPS[(CLIPS["split"] == "test") | (CLIPS["label"] == 1)], SCORES)
    assert systems == {}
    assert (
        undefined["fusion"]
        == "what a score is worth is not known: of its validation clips: one class only: no real clips"
    )
