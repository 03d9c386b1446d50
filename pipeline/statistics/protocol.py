"""What the trainings of a protocol are worth, each on what it was tested on, and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.statistics import metrics
from pipeline.statistics.compare import drawn_p
from pipeline.statistics.metrics import Floats, UndefinedMetricError
from pipeline.statistics.people import draw_people, drawn_metrics, interval

MEAN = "mean of the unseen"
_DRAWS = 1000  # of the people of each test


def val_thresholds(scores: pd.DataFrame) -> dict[str, float]:
    """{method: the mean score over seeds at or above which to call a clip fake}, by the best balanced accuracy.

    scores: of the clips that choose: clip_id, label, method, seed, score.
    """
    mean = scores.groupby(["method", "clip_id"], sort=False).agg(score=("score", "mean"), label=("label", "first"))
    return {
        str(method): metrics.best_threshold(of["label"], of["score"])
        for method, of in mean.groupby(level="method", sort=False)
    }


def measure_protocol(scores: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """One row a training, test and method; then each method's mean over the tests that hold both classes.

    scores: of the clips tested: clip_id, label, person, trained_on, tested_on, method, seed, score, threshold.
    `auc` is that of the seeds' mean score, with its 95 % interval over people; `auc_one` is one seed's, on average.
    What is not defined is NaN. The mean leaves out tests on what was trained on, where there are others.
    """
    rows, drawn = [], []
    for names, of in scores.groupby(["trained_on", "tested_on", "method"], sort=False):
        row, draws = _measured(of, seed)
        rows.append(dict(zip(("trained_on", "tested_on", "method"), names, strict=True)) | row)
        drawn.append(draws)
    methods = dict.fromkeys(row["method"] for row in rows)
    means = [_mean([(r, d) for r, d in zip(rows, drawn, strict=True) if r["method"] == name]) for name in methods]
    return pd.DataFrame([*rows, *(mean for mean in means if mean)])


def what_is_added(scores: pd.DataFrame, method: str, others: Sequence[str], *, seed: int) -> dict[str, Any] | None:
    """{method, control, difference, low, high, p, tests}: of the AUCs' means over the unseen tests, paired.

    The control is the strongest of the others by that mean; both are measured in the same draws of people. None where
    no test has both classes.
    """
    values: dict[str, list[float]] = {}
    drawn: dict[str, list[Floats]] = {}
    tests = [
        (names, of)
        for names, of in scores.groupby(["trained_on", "tested_on"], sort=False)
        if of["label"].nunique() == 2 and of["person"].nunique() > 1
    ]
    tests = [(names, of) for names, of in tests if names[0] != names[1]] or tests
    for _, of in tests:
        for name in (method, *others):
            mine = of[of["method"] == name].groupby("clip_id").agg(
                label=("label", "first"), person=("person", "first"), score=("score", "mean")
            )  # fmt: skip
            if len(mine):
                draws = draw_people(mine["person"], draws=_DRAWS, seed=seed)
                values.setdefault(name, []).append(metrics.auc(mine["label"], mine["score"]))
                drawn.setdefault(name, []).append(drawn_metrics(mine["label"], mine["score"], draws)["auc"])
    means = {name: float(np.mean(each)) for name, each in values.items() if len(each) == len(tests)}
    if method not in means or len(means) == 1:
        return None
    control = max((name for name in means if name != method), key=lambda name: means[name])
    difference = np.nanmean(drawn[method], axis=0) - np.nanmean(drawn[control], axis=0)
    span = interval(difference)
    return {
        "method": method,
        "control": control,
        "difference": means[method] - means[control],
        "low": span.low,
        "high": span.high,
        "p": drawn_p(difference),
        "tests": len(tests),
    }


def _measured(of: pd.DataFrame, seed: int) -> tuple[dict[str, Any], Floats | None]:
    """(one test's row, its AUC in every draw of the people)."""
    by_seed = of.pivot_table(index="clip_id", columns="seed", values="score", sort=False)
    one = of.drop_duplicates("clip_id").set_index("clip_id").loc[by_seed.index]
    labels, mean = one["label"].to_numpy(), by_seed.mean(axis=1).to_numpy()
    called = mean >= one["threshold"].to_numpy()
    n_fake, n_real = int((labels == 1).sum()), int((labels == 0).sum())
    row: dict[str, Any] = {
        "seeds": by_seed.shape[1],
        "people": one["person"].nunique(),
        "real": n_real,
        "fake": n_fake,
        "fakes_missed": float((~called[labels == 1]).mean()) if n_fake else np.nan,
        "reals_accused": float(called[labels == 0].mean()) if n_real else np.nan,
    }
    if not (n_fake and n_real):
        return row, None
    singles = [metrics.auc(labels, by_seed[column].to_numpy()) for column in by_seed]
    row |= {"auc": metrics.auc(labels, mean), "eer": metrics.eer(labels, mean), "auc_one": float(np.mean(singles))}
    try:
        draws = drawn_metrics(labels, mean, draw_people(one["person"], draws=_DRAWS, seed=seed))["auc"]
        found = interval(draws)
    except UndefinedMetricError:
        return row, None
    return row | {"auc_low": found.low, "auc_high": found.high}, draws


def _mean(tests: Sequence[tuple[Mapping[str, Any], Floats | None]]) -> dict[str, Any] | None:
    """The row of a method's mean over tests, None for less than two; its interval draws the people of each."""
    defined = [(row, draws) for row, draws in tests if "auc" in row]
    unseen = [(row, draws) for row, draws in defined if row["trained_on"] != row["tested_on"]] or defined
    if len(unseen) < 2:
        return None
    rows = [row for row, _ in unseen]
    drawn = [draws for _, draws in unseen if draws is not None]
    found = {"trained_on": MEAN, "tested_on": f"{len(rows)} tests", "method": rows[0]["method"]}
    found |= {"seeds": min(row["seeds"] for row in rows)} | {
        k: sum(r[k] for r in rows) for k in ("people", "real", "fake")
    }
    found |= {key: float(np.mean([row[key] for row in rows])) for key in ("auc", "eer", "auc_one")}
    found |= {key: float(np.mean([row[key] for row in rows])) for key in ("fakes_missed", "reals_accused")}
    if len(drawn) == len(rows):
        span = interval(np.mean(drawn, axis=0))
        found |= {"auc_low": span.low, "auc_high": span.high}
    return found
