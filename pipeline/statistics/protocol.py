"""What the trainings of a protocol are worth, each on what it was tested on, and on average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from pipeline.statistics import metrics
from pipeline.statistics.compare import drawn_p
from pipeline.statistics.metrics import Floats, UndefinedMetricError
from pipeline.statistics.people import draw_people, drawn_metrics, interval
from pipeline.statistics.values import affordable

MEAN = "mean of the unseen"


def val_thresholds(scores: pd.DataFrame) -> dict[str, float]:
    """{method: the mean score over seeds at or above which to call a clip fake}, by the best balanced accuracy.

    scores: of the clips that choose: clip_id, label, method, seed, score.
    """
    mean = scores.groupby(["method", "clip_id"], sort=False).agg(score=("score", "mean"), label=("label", "first"))
    return {
        str(method): metrics.best_threshold(of["label"], of["score"])
        for method, of in mean.groupby(level="method", sort=False)
    }


@dataclass(frozen=True)
class Measured:
    """What one method comes to on one test: its row of table.csv, and its AUC in every draw of the people."""

    row: Mapping[str, Any]
    drawn: Floats | None

    @property
    def seen(self) -> bool:
        """Whether it was trained on what it is tested on."""
        return bool(self.row["trained_on"] == self.row["tested_on"])


def every_test(scores: pd.DataFrame, *, seed: int) -> list[Measured]:
    """Every training, test and method, in order of appearance.

    scores: of the clips tested: clip_id, label, person, trained_on, tested_on, method, seed, score, threshold. All
    methods of a test are measured in the same draws of its people.
    """
    keys = ["trained_on", "tested_on", "method"]
    draws = affordable(int(scores.groupby(keys)["clip_id"].nunique().max()))
    found = []
    for names, of in scores.groupby(keys, sort=False):
        row, drawn = _measured(of, draws, seed)
        found.append(Measured(dict(zip(keys, names, strict=True)) | row, drawn))
    return found


def measure_protocol(tests: Sequence[Measured]) -> pd.DataFrame:
    """One row a training, test and method; then each method's mean over the tests that hold both classes.

    `auc` is that of the seeds' mean score, with its 95 % interval over people; `auc_one` is one seed's, on average.
    What is not defined is NaN. The mean leaves out tests on what was trained on, where there are others.
    """
    means = [_mean(of_method) for of_method in _by_method(tests).values()]
    return pd.DataFrame([*(test.row for test in tests), *(mean for mean in means if mean)])


def what_is_added(tests: Sequence[Measured], method: str) -> dict[str, Any] | None:
    """{method, control, difference, low, high, p, tests}: of the AUCs' means over the unseen tests, paired.

    The control is the strongest of all other methods by that mean; both are measured in the same draws of tests and
    people. None where no test has both classes, or a single one people enough.
    """
    of_method = {name: _unseen(of) for name, of in _by_method(tests).items()}
    most = max((len(of) for of in of_method.values()), default=0)
    whole = {name: of for name, of in of_method.items() if len(of) == most > 0}
    if method not in whole or len(whole) == 1:
        return None
    means = {name: float(np.mean([test.row["auc"] for test in of])) for name, of in whole.items()}
    control = max((name for name in means if name != method), key=lambda name: means[name])
    try:
        difference = _drawn_mean(whole[method]) - _drawn_mean(whole[control])
        span = interval(difference)
    except UndefinedMetricError:
        return None
    return {
        "method": method,
        "control": control,
        "difference": means[method] - means[control],
        "low": span.low,
        "high": span.high,
        "p": drawn_p(difference),
        "tests": most,
    }


def plain_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table in JSON's types, without what is not defined."""
    rows = table.to_dict("records")
    return [{str(key): value for key, value in row.items() if not pd.isna(value)} for row in rows]


def _by_method(tests: Sequence[Measured]) -> dict[str, list[Measured]]:
    """Those that hold both classes."""
    found: dict[str, list[Measured]] = {test.row["method"]: [] for test in tests}
    for test in tests:
        if "auc" in test.row:
            found[test.row["method"]].append(test)
    return found


def _unseen(tests: Sequence[Measured]) -> Sequence[Measured]:
    """Those of what was not trained on, or all where there are none."""
    return [test for test in tests if not test.seen] or tests


def _measured(of: pd.DataFrame, n_draws: int, seed: int) -> tuple[dict[str, Any], Floats | None]:
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
        people = draw_people(one["person"], draws=n_draws, seed=seed)
        draws = drawn_metrics(labels, mean, people)["auc"]
        found = interval(draws)
    except UndefinedMetricError:
        return row, None
    return row | {"auc_low": found.low, "auc_high": found.high}, draws


def _mean(tests: Sequence[Measured]) -> dict[str, Any] | None:
    """The row of a method's mean over tests, None for less than two; its interval draws tests, and people of each."""
    unseen = _unseen(tests)
    if len(unseen) < 2:
        return None
    rows = [test.row for test in unseen]
    found = {"trained_on": MEAN, "tested_on": f"{len(rows)} tests", "method": rows[0]["method"]}
    found |= {"seeds": min(row["seeds"] for row in rows)} | {
        k: sum(r[k] for r in rows) for k in ("people", "real", "fake")
    }
    found |= {key: float(np.mean([row[key] for row in rows])) for key in ("auc", "eer", "auc_one")}
    found |= {key: float(np.mean([row[key] for row in rows])) for key in ("fakes_missed", "reals_accused")}
    try:
        span = interval(_drawn_mean(unseen))
    except UndefinedMetricError:
        return found
    return found | {"auc_low": span.low, "auc_high": span.high}


def _drawn_mean(tests: Sequence[Measured]) -> Floats:
    """(draws,) of the mean AUC over tests: each draw takes as many tests again, at random, and the people of each.

    What is claimed is of the next source or method, so that those at hand are a sample of them. A test of one person,
    or a draw of it that lacks a class, counts with the test's own value. Raises UndefinedMetricError where nothing is
    drawn: one test, and too few people in it.
    """
    drawn = [test.drawn for test in tests if test.drawn is not None]
    if not drawn:
        raise UndefinedMetricError("no test has people enough to draw")
    values = np.stack([np.full(len(drawn[0]), t.row["auc"]) if t.drawn is None else t.drawn for t in tests])
    points = np.array([[test.row["auc"]] for test in tests])
    values = np.where(np.isfinite(values), values, points)
    chosen = np.random.default_rng(len(tests)).integers(len(tests), size=values.shape)
    return np.asarray(np.take_along_axis(values, chosen, axis=0).mean(axis=0))
