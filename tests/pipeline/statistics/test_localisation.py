"""Segments of windows' scores, and what they come to beside labelled ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.statistics.localisation import (
    IOUS,
    Matches,
    Proposals,
    Segments,
    best_runs,
    measure_localisation,
    overlaps,
    segments_of,
)
from pipeline.statistics.measure import measure
from pipeline.statistics.people import draw_people
from tests.pipeline.run_fixture import make_clips, make_index, make_scores

TRUE = {"a": [(1.0, 2.0)], "b": [(0.0, 1.0), (3.0, 4.0)], "real": []}


def average_precision_at(found: Mapping[str, Proposals], true: Mapping[str, Segments], iou: float) -> float:
    """Of the clips as they are, each once."""
    return float(Matches.of(found, true, (iou,)).precisions(np.ones((1, len(true))))[iou][0])


def average_recall_at(found: Mapping[str, Proposals], true: Mapping[str, Segments], most: int) -> float:
    return float(Matches.of(found, true).recall(most, np.ones((1, len(true))))[0])


def test_overlaps() -> None:
    assert overlaps([(0, 2), (5, 6)], [(1, 3), (0, 2), (2, 2)]) == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))
    assert overlaps([], [(0, 1)]).shape == (0, 1)


def test_all_found_and_nothing_else() -> None:
    found = {clip: [(*segment, 0.9) for segment in segments] for clip, segments in TRUE.items()}
    assert average_precision_at(found, TRUE, 0.95) == 1
    assert average_recall_at(found, TRUE, 2) == 1
    assert average_recall_at(found, TRUE, 1) == pytest.approx(2 / 3)  # b has two
    assert average_precision_at({}, TRUE, 0.5) == 0


def test_by_hand() -> None:
    """Most confident first: a false alarm in the real clip, a hit, the same segment again, a hit."""
    found = {"real": [(0, 1, 0.9)], "a": [(1, 2, 0.8), (1, 2, 0.7)], "b": [(0.12, 1, 0.6)]}
    # Recall 1/3 at precision 1/2 and 2/3 at 2/4; the third segment is not found.
    assert average_precision_at(found, TRUE, 0.5) == pytest.approx(1 / 3 * 1 / 2 + 1 / 3 * 1 / 2)
    assert average_precision_at(found, TRUE, 0.92) == pytest.approx(1 / 3 * 1 / 2)  # b's overlaps by 0.88
    # a at all ten thresholds, b's at the eight below 0.88.
    assert average_recall_at(found, TRUE, 10) == pytest.approx((10 + 8) / 3 / 10)


def test_without_labels_there_is_no_value() -> None:
    assert np.isnan(average_precision_at({}, {"real": []}, 0.5))
    assert np.isnan(average_recall_at({}, {"real": []}, 5))


spans = st.tuples(st.floats(0, 5), st.floats(0.1, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.tuples(spans, st.floats(0, 1)), max_size=5)),
    st.dictionaries(st.sampled_from("abc"), st.lists(spans, max_size=3)).filter(lambda d: any(d.values())),
)
def test_bounds_and_order(found: dict, true: dict) -> None:
    proposals = {clip: [(*span, c) for span, c in each] for clip, each in found.items()}
    at = [average_precision_at(proposals, true, iou) for iou in (0.5, 0.75, 0.95)]
    assert 1 >= at[0] >= at[1] >= at[2] >= 0
    more = [average_recall_at(proposals, true, most) for most in (1, 2, 10)]
    assert 0 <= more[0] <= more[1] <= more[2] <= 1


def windows(clip: str, scores: Sequence[float], starts: Sequence[float] = (), length: float = 4.0) -> pd.DataFrame:
    """A row a window; one after the other where no starts are given."""
    start = np.array(starts or np.arange(len(scores)) * length, float)
    return pd.DataFrame({"clip_id": clip, "start_s": start, "end_s": start + length, "score": scores})


def test_a_run_of_high_windows_comes_before_its_pieces() -> None:
    found = segments_of(windows("a", [0.1, 0.9, 0.8, 0.1]))["a"]
    best, *rest = sorted(found, key=lambda proposal: -proposal[2])
    assert best == (4, 12, pytest.approx(0.75))
    assert {proposal[:2] for proposal in rest} == {(0, 4), (4, 8), (8, 12), (12, 16), (0, 16)}
    assert {proposal[:2]: proposal[2] for proposal in rest}[4, 8] == pytest.approx(0.9 - (0.1 + 0.8) / 2)
    assert average_precision_at({"a": found}, {"a": [(4.5, 12)]}, 0.75) == 1


def test_of_an_even_clip_the_whole_comes_first() -> None:
    (best, *_) = sorted(segments_of(windows("a", [0.9, 0.9, 0.9]))["a"], key=lambda proposal: -proposal[2])
    assert best == (0, 12, pytest.approx(0.9))


def test_no_run_reaches_over_seconds_that_no_window_holds() -> None:
    found = segments_of(windows("a", [0.9, 0.9, 0.9], starts=[0, 3, 7.5]))["a"]
    assert {proposal[:2] for proposal in found} == {(0, 4), (3, 7), (0, 7), (7.5, 11.5)}


def test_clips_are_told_apart_and_rows_may_come_in_any_order() -> None:
    table = pd.concat([windows("a", [0.1, 0.9, 0.8]), windows("b", [0.9])])
    found = segments_of(table)
    assert found["b"] == [(0, 4, pytest.approx(0.9))]
    assert found == segments_of(table.iloc[::-1])


chances = st.lists(st.floats(0, 1), min_size=1, max_size=9)
gaps = st.lists(st.sampled_from([-1.0, 0.0, 0.0, 2.0]), min_size=9, max_size=9)


@st.composite
def clips_of_windows(draw: st.DrawFn) -> pd.DataFrame:
    """Windows of 2 s that overlap, touch, or leave seconds out."""
    parts = []
    for clip in "abc":
        scores = draw(chances)
        starts = np.cumsum([2 + gap for gap in draw(gaps)])[: len(scores)].tolist()
        parts.append(windows(clip, scores, starts=starts, length=2.0))
    return pd.concat(parts, ignore_index=True)


@given(clips_of_windows())
def test_proposals_are_made_of_windows(table: pd.DataFrame) -> None:
    for clip, found in segments_of(table).items():
        mine = table[table["clip_id"] == clip]
        spans = [proposal[:2] for proposal in found]
        assert len(set(spans)) == len(spans) <= 2 * len(mine)
        assert set(zip(mine["start_s"], mine["end_s"], strict=True)) <= set(spans)
        assert {start for start, _ in spans} <= set(mine["start_s"])
        assert {end for _, end in spans} <= set(mine["end_s"])
        assert all(-1 <= confidence <= 1 for *_, confidence in found)


apart = st.lists(st.integers(0, 90), max_size=6, unique=True).map(
    lambda edges: [(a / 4, b / 4) for a, b in zip(sorted(edges)[::2], sorted(edges)[1::2], strict=False)]
)


@settings(max_examples=60)
@given(clips_of_windows(), st.dictionaries(st.sampled_from("abc"), apart).filter(lambda d: any(d.values())))
def test_nothing_is_better_than_the_best_runs(table: pd.DataFrame, true: dict) -> None:
    found, best = segments_of(table), best_runs(table, true)
    for iou in IOUS:
        reached = average_precision_at(best, true, iou)
        assert average_precision_at(found, true, iou) <= reached + 1e-12
        assert reached == pytest.approx(average_recall_at_one(best, true, iou))  # no best run is a false alarm
    for most in (1, 2, 100):
        assert average_recall_at(found, true, most) <= average_recall_at(best, true, most) + 1e-12


def average_recall_at_one(found: dict, true: dict, iou: float) -> float:
    """The share of segments that something overlaps by more than `iou`."""
    met = [overlaps([p[:2] for p in found[clip]], true[clip]).max(axis=0, initial=0) > iou for clip in true]
    return float(np.concatenate(met).mean())


def test_the_best_runs_by_hand() -> None:
    """Windows of 4 s: a second within one is a quarter of it; what two windows hold exactly is found."""
    table = windows("a", [0.5, 0.5, 0.5])
    found = best_runs(table, {"a": [(1, 2), (4, 12), (13, 14)], "unseen": [(0, 1)]})
    assert found == {"a": [(0, 4, 0.25), (4, 12, 1.0)], "unseen": []}


def collection() -> tuple[pd.DataFrame, pd.DataFrame]:
    """(clips, scores): of six people a real clip and one whose second window is fake, found in all but one; beside them
    what does not count."""
    rows, scores = [], []

    def add(name: str, category: str, values: Sequence[float], **changes: str | float) -> None:
        row = {"clip_id": name, "subject_id": name[1:], "dataset": "timed", "split": "test", "category": category}
        rows.append({**row, "video_segments": "", "audio_segments": ""} | changes)
        for seed, shift in enumerate((-0.05, 0.05)):
            table = windows(name, [value + shift for value in values])
            scores.append(table.assign(split=rows[-1]["split"], system="fusion", seed=seed))
        scores.append(windows(name, [0.9] * len(values)).assign(split="test", system="audio", seed=0))

    for person in range(6):
        add(f"r{person}", "RVRA", [0.2, 0.3])
        wrong = person == 5
        add(f"f{person}", "FVRA", [0.8, 0.1] if wrong else [0.1, 0.8], video_segments="4.2-8")
    add("x0", "FVFA", [0.9, 0.9], video_segments="0-4")  # its sound is fake nobody knows where
    add("x1", "FVRA", [0.9, 0.9], dataset="untimed")
    add("x2", "RVRA", [0.9, 0.9], dataset="untimed")
    add("x3", "FVRA", [0.9, 0.9], split="val", video_segments="0-4")
    return pd.DataFrame(rows), pd.concat(scores, ignore_index=True)


def test_what_is_measured() -> None:
    clips, scores = collection()
    found = measure_localisation(clips, scores)
    assert found is not None
    json.dumps(found, allow_nan=False)
    told = ("system", "clips", "fake_clips", "segments", "segment_s", "window_s")
    assert [found[key] for key in told] == ["fusion", 12, 6, 6, pytest.approx(3.8), 4]
    # Five come first, each 3.8 s of 4; the sixth, the window that its clip's network trusts, is the last of 36.
    assert found["ap"]["0.5"]["value"] == pytest.approx(5 / 6 + 1 / 6 * 6 / 36)
    assert found["ap"]["0.95"]["value"] == 0
    assert found["ar"]["5"]["value"] == pytest.approx(0.9)  # all windows are among five: met at all IoUs but 0.95
    assert found["oracle"] == {
        "ap": {"0.5": 1.0, "0.75": 1.0, "0.95": 0.0, "mean": pytest.approx(0.9)},
        "ar": dict.fromkeys(("5", "10", "20", "50", "100"), pytest.approx(0.9)),
    }
    assert measure_localisation(clips[clips["dataset"] == "untimed"], scores) is None
    assert measure_localisation(clips[clips["split"] == "val"], scores) is None
    assert measure_localisation(clips, scores[scores["system"] == "audio"]) is None
    assert segments_of(scores.iloc[:0]) == {}


def test_it_stands_in_the_metrics_whatever_the_rows_order() -> None:
    index = make_index()
    clips = make_clips(index)
    clips = clips.assign(video_segments=np.where(clips["category"].str[0] == "F", "3.5-8", ""))
    clips = clips.assign(audio_segments=np.where(clips["category"].str[2] == "F", "0-4;6-7", ""))
    scores = make_scores(index, seeds=(0, 1), networks=("fusion",))
    found = measure(clips, scores)["localisation"]
    assert found == measure_localisation(clips, scores)
    assert (found["clips"], found["fake_clips"], found["segments"]) == (24, 18, 24)
    assert found == measure_localisation(clips.iloc[::-1], scores.sample(frac=1, random_state=0))


def test_both_modalities_are_one_list_of_seconds() -> None:
    clips, scores = collection()
    clips = clips[clips["clip_id"] == "f0"].assign(category="FVFA", audio_segments="0-4.5")
    found = measure_localisation(clips, scores)
    assert found is not None
    assert (found["segments"], found["segment_s"]) == (1, 8)


def test_intervals_are_those_of_people_drawn() -> None:
    """Beside the plain function over clips that stand there as often as their person was drawn."""
    clips, scores = collection()
    clips = clips[clips["clip_id"].str[0] != "x"]
    found = measure_localisation(clips, scores, seed=3)
    assert found is not None
    mean = scores[scores["system"] == "fusion"].groupby(["clip_id", "start_s", "end_s"])["score"].mean().reset_index()
    proposals = segments_of(mean)
    true = {row.clip_id: [(4.2, 8.0)] if row.clip_id[0] == "f" else [] for row in clips.itertuples()}
    draws = draw_people(clips.sort_values("clip_id")["subject_id"], seed=3)
    which, place = np.unique(draws.counts, axis=0, return_inverse=True)
    drawn = []
    for counts in which:
        names = [(c, n) for c, m in zip(sorted(true), draws.member, strict=True) for n in range(counts[m])]
        again = {f"{c} {n}": proposals[c] for c, n in names}
        drawn.append(average_precision_at(again, {f"{c} {n}": true[c] for c, n in names}, 0.5))
    low, high = np.percentile(np.array(drawn)[place], [2.5, 97.5])
    value = found["ap"]["0.5"]
    assert (value["low"], value["high"]) == (pytest.approx(low), pytest.approx(high))
    one = measure_localisation(clips[clips["subject_id"] == "0"], scores)
    assert one is not None
    assert one["ap"]["0.5"]["value"] == 1
    assert one["ap"]["0.5"]["low"] is None
    assert "too few people (1; 6 needed)" in one["ap"]["0.5"]["reason"]
