"""When a clip is fake: segments from windows' scores, and how well they meet the labelled ones, as LAV-DF and
AV-Deepfake1M measure it.

Windows are what is scored, so their edges bound what can be found: `best_runs` says how much that is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cache_schemas.segments import MIN_FAKE_S, merge_segments, parse_segments
from pipeline.statistics.metrics import Floats
from pipeline.statistics.systems import FUSION
from pipeline.statistics.values import Value, affordable, people_drawn, value

Segments = Sequence[tuple[float, float]]
Proposal = tuple[float, float, float]
"""(start, end, confidence)"""
Proposals = Sequence[Proposal]
Stretch = tuple[Floats, Floats, Floats]
"""(windows,) starts, ends and scores of windows that follow one another"""
IOUS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
SHOWN_IOUS, MOST = (0.5, 0.75, 0.95), (5, 10, 20, 50, 100)
_BLOCK = 2_000_000  # weights at once


def segments_of(windows: pd.DataFrame) -> dict[str, Proposals]:
    """{clip: its proposals} of scored windows; columns: clip_id, start_s, end_s, score, a row a window.

    Proposed are each window, and each run of windows without a gap whose scores all lie above those on both its sides:
    what thresholds of every height leave over, as weakly supervised localisers group snippets. A proposal's confidence
    is its mean score less that of the windows beside it ("outer-inner contrast"), so that the whole of an even stretch
    comes before its pieces.
    """
    return {clip: _proposals(stretches) for clip, stretches in _stretches(windows).items()}


def best_runs(windows: pd.DataFrame, true: Mapping[str, Segments]) -> dict[str, Proposals]:
    """{clip: of each segment the run of windows that overlaps it most, the overlap as its confidence}.

    No proposals that start and end with windows can do better. windows: as of `segments_of`.
    """
    stretches = _stretches(windows)
    found: dict[str, Proposals] = {}
    for clip, segments in true.items():
        best = [_best_run(stretches.get(clip, ()), segment) for segment in segments]
        found[clip] = [run for run in best if run[2]]
    return found


def measure_localisation(clips: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any] | None:
    """The entry `localisation` of metrics.json; None where no test clip has labelled segments, or no fusion network.

    clips, scores: the rows of clips.csv and scores.csv. Measured are the seeds' mean scores of the fusion network on
    the test clips of those data sets that label segments, without clips that are fake in a modality without any.
    `oracle`: what `best_runs` come to, to be read beside each value.
    """
    clips = clips[clips["split"] == "test"].set_index("clip_id").sort_index()
    true = _labelled(clips)
    mine = scores[(scores["system"] == FUSION) & scores["clip_id"].isin(list(true))]
    if mine.empty or not any(true.values()):
        return None
    windows = mine.sort_values("seed").groupby(["clip_id", "start_s", "end_s"])["score"].mean().reset_index()
    people = clips.loc[list(true), "subject_id"].to_numpy()
    return {
        "system": FUSION,
        "clips": len(true),
        "fake_clips": sum(bool(segments) for segments in true.values()),
        "segments": sum(len(segments) for segments in true.values()),
        "segment_s": float(np.median([end - start for segments in true.values() for start, end in segments])),
        "window_s": float((windows["end_s"] - windows["start_s"]).median()),
        **_values(Matches.of(segments_of(windows), true), people, seed),
        "oracle": {
            kind: {name: float(drawn[0]) for name, drawn in named.items()}
            for kind, named in Matches.of(best_runs(windows, true), true).measures(np.ones((1, len(true)))).items()
        },
    }


def overlaps(found: ArrayLike, true: ArrayLike) -> Floats:
    """(found, true) intersection over union; found: (n, 2) starts and ends, true: (m, 2)."""
    a, b = (np.asarray(side, np.float64).reshape(-1, 2) for side in (found, true))
    both = np.minimum(a[:, None, 1], b[None, :, 1]) - np.maximum(a[:, None, 0], b[None, :, 0])
    both = both.clip(min=0)
    union = np.diff(a)[:, 0][:, None] + np.diff(b)[:, 0][None, :] - both
    return np.asarray(np.divide(both, union, out=np.zeros_like(both), where=union > 0))


@dataclass(frozen=True)
class Matches:
    """Which proposals meet a segment, the most confident of all clips first; clips are numbered as in `true`.

    true: of every clip, a real one's empty.
    """

    clip: NDArray[np.intp]
    """(proposals,) whose each is"""
    rank: NDArray[np.intp]
    """(proposals,) its place among its clip's, from 0"""
    hit: Mapping[float, NDArray[np.bool_]]
    """{iou: (proposals,)}"""
    segments: NDArray[np.intp]
    """(clips,) how many are labelled"""

    @classmethod
    def of(cls, found: Mapping[str, Proposals], true: Mapping[str, Segments], ious: Sequence[float] = IOUS) -> Matches:
        ordered = [_ordered(found.get(clip, ())) for clip in true]
        overlap = [overlaps(rows[:, :2], segments) for rows, segments in zip(ordered, true.values(), strict=True)]
        order = np.argsort(-np.concatenate([rows[:, 2] for rows in ordered]), kind="stable")
        lengths = [len(rows) for rows in ordered]
        return cls(
            np.repeat(np.arange(len(true)), lengths)[order],
            np.concatenate([np.arange(length) for length in lengths])[order],
            {iou: np.concatenate([_first_to_meet(each, iou) for each in overlap])[order] for iou in ious},
            np.array([len(segments) for segments in true.values()]),
        )

    def measures(self, weights: Floats) -> dict[str, dict[str, Floats]]:
        """{ap: {iou, and mean over IOUS: (draws,)}, ar: {most: (draws,)}}; weights: as of `precisions`."""
        precisions = self.precisions(weights)
        shown = {f"{iou:g}": precisions[iou] for iou in SHOWN_IOUS}
        return {
            "ap": shown | {"mean": np.mean(list(precisions.values()), axis=0)},
            "ar": {str(most): self.recall(most, weights) for most in MOST},
        }

    def precisions(self, weights: Floats) -> dict[float, Floats]:
        """{iou: (draws,) average precision}, NaN without segments; weights: (draws, clips), how often each is there.

        The area under precision against recall of all clips' proposals together. One is right if it overlaps a segment
        by more than `iou` that none more confident has met; precision is the best at that recall or beyond.
        """
        weight = weights[:, self.clip]
        so_far, segments = np.cumsum(weight, axis=1), weights @ self.segments
        found = {}
        for iou, hit in self.hit.items():
            right = np.cumsum(weight[:, hit], axis=1)
            precision = np.divide(right, so_far[:, hit], out=np.zeros_like(right), where=right > 0)
            best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            found[iou] = _share((weight[:, hit] * best).sum(axis=1), segments)
        return found

    def recall(self, most: int, weights: Floats) -> Floats:
        """(draws,) the share of segments that a clip's `most` most confident proposals meet, averaged over the IoUs."""
        chosen = self.rank < most
        met = np.sum(
            [np.bincount(self.clip[chosen & hit], minlength=len(self.segments)) for hit in self.hit.values()], 0
        )
        return _share(weights @ met, len(self.hit) * (weights @ self.segments))


def _values(matches: Matches, people: NDArray[Any], seed: int) -> dict[str, dict[str, Value]]:
    """{ap: {iou or mean: value}, ar: {most: value}}; people: (clips,)."""
    whole = matches.measures(np.ones((1, len(people))))
    drawn: dict[str, dict[str, list[Floats]]] = {kind: {name: [] for name in named} for kind, named in whole.items()}
    draws = people_drawn(people, seed=seed)
    if not isinstance(draws, str):
        draws = draws.of(slice(None), most=affordable(len(matches.clip)))
        for counts in np.array_split(draws.counts, -(-draws.counts.shape[0] * max(1, len(matches.clip)) // _BLOCK)):
            for kind, named in matches.measures(counts[:, draws.member].astype(np.float64)).items():
                for name, values in named.items():
                    drawn[kind][name].append(values)
    return {
        kind: {
            name: value(float(point[0]), draws if isinstance(draws, str) else np.concatenate(drawn[kind][name]))
            for name, point in named.items()
        }
        for kind, named in whole.items()
    }


def _labelled(clips: pd.DataFrame) -> dict[str, Segments]:
    """{clip: its fake seconds, of either modality}; clips: rows of clips.csv, by clip_id."""
    found: dict[str, Segments] = {}
    for row in clips.itertuples():
        category = str(row.category)
        sides = [(category[:2] == "FV", row.video_segments), (category[2:] == "FA", row.audio_segments)]
        known = [parse_segments(str(text)) for fake, text in sides if fake]
        if all(known):  # fake without segments: throughout, or nobody knows where
            found[str(row.Index)] = merge_segments([segment for each in known for segment in each])
    timed = {clips.at[clip, "dataset"] for clip, segments in found.items() if segments}
    return {clip: segments for clip, segments in found.items() if clips.at[clip, "dataset"] in timed}


def _stretches(windows: pd.DataFrame) -> dict[str, list[Stretch]]:
    """{clip: its windows}, in parts between which seconds are in no window."""
    windows = windows.sort_values(["clip_id", "start_s"], kind="stable")
    clip = windows["clip_id"].to_numpy(str)
    starts, ends, scores = (windows[name].to_numpy(float) for name in ("start_s", "end_s", "score"))
    latest = windows.groupby("clip_id", sort=False)["end_s"].cummax().to_numpy()
    cuts = np.flatnonzero((clip[1:] != clip[:-1]) | (starts[1:] > latest[:-1] + MIN_FAKE_S)) + 1
    found: dict[str, list[Stretch]] = {}
    for first, stop in zip([0, *cuts], [*cuts, len(clip)], strict=True) if len(clip) else ():
        found.setdefault(str(clip[first]), []).append((starts[first:stop], ends[first:stop], scores[first:stop]))
    return found


def _proposals(stretches: Sequence[Stretch]) -> Proposals:
    found = []
    for starts, ends, scores in stretches:
        runs = {(i, i + 1) for i in range(len(scores))} | {_run_around(scores, i) for i in range(len(scores))}
        for first, stop in sorted(runs):
            beside = np.concatenate([scores[max(first - 1, 0) : first], scores[stop : stop + 1]])
            contrast = scores[first:stop].mean() - (beside.mean() if len(beside) else 0)
            found.append((float(starts[first]), float(ends[first:stop].max()), float(contrast)))
    return found


def _run_around(scores: Floats, place: int) -> tuple[int, int]:
    """(first, stop) of the windows about this one that score no less."""
    lower = np.flatnonzero(scores < scores[place])
    split = int(np.searchsorted(lower, place))
    first = int(lower[split - 1]) + 1 if split else 0
    return first, int(lower[split]) if split < len(lower) else len(scores)


def _best_run(stretches: Sequence[Stretch], segment: tuple[float, float]) -> Proposal:
    """The run of windows that overlaps the segment most, with that overlap; (0, 0, 0) where none does."""
    best: Proposal = (0.0, 0.0, 0.0)
    for starts, ends, _ in stretches:
        meets = np.flatnonzero((starts < segment[1]) & (ends > segment[0]))
        runs = [(starts[i], ends[j]) for i in meets for j in meets[meets >= i]]
        met = overlaps(runs, [segment])[:, 0]
        if met.max(initial=0) > best[2]:
            place = int(met.argmax())
            best = (float(runs[place][0]), float(runs[place][1]), float(met[place]))
    return best


def _share(part: Floats, whole: Floats) -> Floats:
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))


def _ordered(proposals: Proposals) -> Floats:
    rows = np.asarray(proposals, np.float64).reshape(-1, 3)
    return rows[np.argsort(-rows[:, 2], kind="stable")]


def _first_to_meet(overlap: Floats, iou: float) -> NDArray[np.bool_]:
    """(proposals,) whether each overlaps a segment by more than `iou` that none before it did; overlap: (proposals,
    segments)."""
    free = overlap.copy()
    met = np.zeros(len(free), bool)
    for row in range(len(free)):
        if free.shape[1] and free[row].max() > iou:
            met[row] = True
            free[:, free[row].argmax()] = 0
    return met
