"""When a network's score is no answer: too little to see or hear, unlike the training data, members who disagree.

A clip's quantities, each a column of the table of clips:

face_share        share of the pictures looked at, in all its windows, that show the face; what is used of it is less
speech_s          seconds of its windows above silence
visual_distance   how far its picture lies from the training clips', `pipeline.runs.unlike`: the median of its windows
audio_distance    the same of its sound
spread            largest minus smallest P(fake) of the seeds' networks

Shares and seconds add up over windows. A distance is the median: one odd window does not make a clip odd, and more than
half of them do. What is not known (NaN) withholds nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from cache_schemas.evidence import SystemEvidence
from cache_schemas.run import NetworkName
from pipeline.statistics.answers import LEAST, QUANTITIES, beyond
from pipeline.statistics.metrics import Floats
from pipeline.statistics.values import choose

LEFT_OUT = 0.05
"""Of clips like val's, so many at most are called unlike the training data, and as many are left to disagreement."""

FEW_PEOPLE = 20
"""With fewer people in val, its own quantile says too little of people to come: see `distance_limit`."""

DISTANCES = ("visual_distance", "audio_distance")


def upper_limit(values: ArrayLike, *, left_out: float) -> float | None:
    """What at most `left_out` of clips like these exceed; values: (clips,), NaN where not known.

    The quantile that holds for one clip more (Vovk et al. 2005, "conformal"), or the largest where the clips are too
    few for one. None for fewer than two.
    """
    known = np.sort(np.asarray(values, np.float64))
    known = known[np.isfinite(known)]
    rank = int(np.ceil((len(known) + 1) * (1 - left_out)))
    return float(known[min(rank, len(known)) - 1]) if len(known) > 1 else None


def distance_limit(distances: ArrayLike, people: ArrayLike, *, left_out: float) -> float | None:
    """As `upper_limit`; with fewer than FEW_PEOPLE also no less than a prediction limit for one *person* more.

    The logarithms of the distances are taken as normal within and between people. Few clips of few people say little of
    others: that many clips of one person lie near each other does not mean that the next person's do.
    """
    x, who = np.asarray(distances, np.float64), np.asarray(people)
    known = np.isfinite(x) & (x > 0)
    limit = upper_limit(x, left_out=left_out)
    if limit is None or known.sum() < 2 or len(np.unique(who[known])) >= FEW_PEOPLE:
        return limit
    return max(limit, float(np.exp(_prediction_limit(np.log(x[known]), who[known], left_out))))


def _prediction_limit(x: Floats, people: ArrayLike, left_out: float) -> float:
    """Of a normal variable with a part of each person's own; one person's clips are taken as so many people's."""
    means = pd.Series(x).groupby(np.asarray(people)).transform("mean").to_numpy()
    one_each = np.unique(np.asarray(people), return_index=True)[1]
    if len(one_each) == 1:
        n, centre, between, within = len(x), x.mean(), x.var(ddof=1), 0.0
    else:
        n, centre, between = len(one_each), means[one_each].mean(), means[one_each].var(ddof=1)
        within = float(np.square(x - means).sum() / max(1, len(x) - n))
    return float(centre + stats.t.ppf(1 - left_out, n - 1) * np.sqrt(between * (1 + 1 / n) + within))


def scored_clips(clips: pd.DataFrame, scores: pd.DataFrame, system: str) -> pd.DataFrame:
    """One row a clip that `system` scored, by clip_id: the row of `clips`, `score` and `spread`.

    clips: as in clips.csv; scores: as in scores.csv, both in any order. score: the mean over windows and seeds; spread:
    NaN for one seed. A quantity that `clips` has no column for is not known.
    """
    mine = scores[scores["system"] == system].set_index(["clip_id", "window", "seed"])["score"].unstack("seed")
    by_seed = mine.groupby(level="clip_id").mean()
    spread = by_seed.max(axis=1) - by_seed.min(axis=1) if by_seed.shape[1] > 1 else np.nan
    table = by_seed.mean(axis=1).to_frame("score").assign(spread=spread).join(clips.set_index("clip_id"))
    return table.assign(**{name: np.nan for name in QUANTITIES["fusion"] if name not in table})


def calibrated(labels: ArrayLike, scores: ArrayLike) -> dict[str, Any] | str:
    """The fields of SystemEvidence that say what scores are worth, by these clips; or why nothing can be said."""
    chosen = choose(labels, scores)
    if isinstance(chosen, str):
        return chosen
    low, high = chosen.calibration.limits
    return {
        "kind": chosen.calibration.kind,
        "points": list(chosen.calibration.points),
        "low": low,
        "high": high,
        "threshold": chosen.threshold,
        "n_real": int((np.asarray(labels) == 0).sum()),
        "n_fake": int((np.asarray(labels) == 1).sum()),
    }


def fit_system(network: NetworkName, val: pd.DataFrame) -> SystemEvidence | str:
    """What the network's scores are worth, or why nothing can be said; val: `scored_clips` of the val split.

    The share that may be left out as unlike is dealt out over picture and sound, so that both together keep to it.
    """
    worth = calibrated(val["label"], val["score"])
    if isinstance(worth, str):
        return worth
    watched = [name for name in DISTANCES if val[name].notna().any()]
    limits: dict[str, float | None] = dict(LEAST)
    for name in DISTANCES:
        limits[name] = distance_limit(val[name], val["subject_id"], left_out=LEFT_OUT / max(1, len(watched)))
    limits["spread"] = upper_limit(val["spread"], left_out=LEFT_OUT)
    return SystemEvidence(**worth, limits={name: limits[name] for name in QUANTITIES[network]})


def fit_systems(
    clips: pd.DataFrame, scores: pd.DataFrame
) -> tuple[dict[NetworkName, SystemEvidence], dict[NetworkName, str]]:
    """({network: what its scores are worth by the val split}, {network: why nothing can be said})."""
    systems: dict[NetworkName, SystemEvidence] = {}
    undefined: dict[NetworkName, str] = {}
    for network in QUANTITIES:
        if (scores["system"] == network).any():
            table = scored_clips(clips, scores, network)
            found = fit_system(network, table[table["split"] == "val"])
            if isinstance(found, str):
                undefined[network] = (
                    f"what a score is worth is not known: {found.replace('val:', 'of its validation clips:')}"
                )
            else:
                systems[network] = found
    return systems, undefined


def withheld(table: pd.DataFrame, system: SystemEvidence) -> pd.DataFrame:
    """(clips, quantities) bool: whether each keeps the clip from being judged; table: as `scored_clips` gives it."""
    found = {name: beyond(name, table[name], system.limits) for name in system.limits}
    return pd.DataFrame(found, index=table.index)
