"""What the trainings of a protocol are worth, each on what it was tested on, and on average.

There are two averages over tests: of pairs of a fake and a real clip of one test, each pair alike, and of tests, each
alike. The first leads, since a test of two clips has an AUC of 0 or 1: docs/decisions/009-pairs-lead.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.statistics import metrics
from pipeline.statistics.added import in_a_word
from pipeline.statistics.compare import paired
from pipeline.statistics.means import MEAN, MEANS, PAIRS, disagree
from pipeline.statistics.metrics import Floats, Ints, UndefinedMetricError
from pipeline.statistics.people import draw_people, drawn_metrics, drawn_pairs, enough, enough_of_each, interval
from pipeline.statistics.values import DRAWS, affordable, value

_MOST_PAIRS = 0.9  # the tests that hold so many of the pairs are counted


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
    """What one method comes to on one test: its row of table.csv, and its AUC in every draw of the people.

    drawn: (draws,), be the people ever so few, or why nobody is drawn; pairs: (draws,) of a fake and a real clip in
    each, or those that there are.
    """

    row: Mapping[str, Any]
    drawn: Floats | str
    pairs: Floats | int
    few: str = ""
    """Why nothing but points can be said of it alone; empty where more can"""

    @property
    def seen(self) -> bool:
        """Whether it was trained on what it is tested on."""
        return bool(self.row["trained_on"] == self.row["tested_on"])


def every_test(scores: pd.DataFrame, *, seed: int) -> list[Measured]:
    """Every training, test and method, in order of appearance.

    scores: of the clips tested: clip_id, label, person, trained_on, tested_on, method, seed, score, threshold. All
    methods of a test are measured on the same clips and in the same draws of their people: a seed that failed in a
    fold, and so has not scored every clip, does not count, and a method without any that has is left out.
    """
    tests = scores.groupby(["trained_on", "tested_on"], sort=False)
    draws = affordable(int(tests["clip_id"].nunique().max()))
    found = []
    for (trained_on, tested_on), of_test in tests:
        clips = of_test["clip_id"].unique()
        for method, of in of_test.groupby("method", sort=False):
            # Networks of several folds may have tested a clip: their mean is taken.
            by_seed = of.pivot_table(index="clip_id", columns="seed", values="score").reindex(clips)
            by_seed = by_seed.dropna(axis="columns")
            if by_seed.shape[1]:
                names = {"trained_on": trained_on, "tested_on": tested_on, "method": method}
                about = of.groupby("clip_id").agg({"label": "first", "person": "first", "threshold": "mean"})
                found.append(_measured(names, about.loc[clips], by_seed, draws, seed))
    return found


def measure_protocol(tests: Sequence[Measured]) -> pd.DataFrame:
    """One row a training, test and method; then each method's MEANS over the tests that hold both classes.

    `auc` is that of the seeds' mean score, with its 95 % interval over people, or `auc_reason` why there is none;
    `auc_one` is one seed's, on average. What is not defined is NaN. The means leave out tests on what was trained on,
    where there are others.
    """
    unseen = [_unseen(of_method) for of_method in _by_method(tests).values()]
    means = [_mean(of_method, of) for of in MEANS for of_method in unseen if len(of_method) > 1]
    return pd.DataFrame([*(test.row for test in tests), *means])


def what_is_added(tests: Sequence[Measured], method: str) -> dict[str, Any] | None:
    """{method, tests, pairs, mean, sentence}: what a method's AUC over the unseen tests is above the others', paired.

    pairs, mean: {control, difference, low, high, p, reason} by each of MEANS; the control is the strongest of all other
    methods by it. Both are measured in the same draws of tests and people. None where no test has both classes.
    """
    of_method = {name: _unseen(of) for name, of in _by_method(tests).items()}
    most = max((len(of) for of in of_method.values()), default=0)
    whole = {name: of for name, of in of_method.items() if len(of) == most > 0}
    if method not in whole or len(whole) == 1:
        return None
    found = {name: _added(whole, method, of) for of, name in MEANS.items()}
    return {"method": method, "tests": most, **found, "sentence": _sentence(method, most, **found)}


def _added(whole: Mapping[str, Sequence[Measured]], method: str, of: str) -> dict[str, Any]:
    means = {name: _average(tests, "auc", of) for name, tests in whole.items()}
    control = max((name for name in means if name != method), key=lambda name: means[name])
    drawn = (_drawn_mean(whole[name], of) for name in (method, control))
    return {"control": control, **paired(means[method] - means[control], *drawn)}


def _sentence(method: str, tests: int, pairs: Mapping[str, Any], mean: Mapping[str, Any]) -> str:
    by_pairs, by_tests = (f"{in_a_word(of, 'the strongest of the others, ' + of['control'])}." for of in (pairs, mean))
    if tests == 1:
        return f"{method} adds {by_pairs}"
    text = (
        f"Over the pairs of a fake and a real clip inside {tests} tests, {method} adds {by_pairs} As a mean over the "
        f"tests it adds {by_tests}"
    )
    if disagree({"pairs": pairs, "mean": mean}):
        text += " The two disagree about the sign: what it adds depends on how tests are counted."
    return text


def thresholds_carry_over(scores: pd.DataFrame, method: str) -> dict[str, Any] | None:
    """{real, fake, val, elsewhere, sentence}: a method's errors on what is left out in turn, by two thresholds.

    scores: as `every_test` takes them. val, elsewhere: {reals_accused, fakes_missed}, shares of all `real` and `fake`
    clips, each alike: by the threshold that the network's val clips chose, and by one that the other tests' clips of
    other people choose, scored by networks that had not seen the like of those either. Tests for which these hold one
    class only do not count; None where no clips of both classes are left.
    """
    by_clip = scores[scores["method"] == method].groupby(["tested_on", "clip_id"], sort=False)
    clips = by_clip.agg({"label": "first", "person": "first", "threshold": "mean", "score": "mean"}).reset_index()
    parts = []
    for tested_on, test in clips.groupby("tested_on", sort=False):
        others = clips[(clips["tested_on"] != tested_on) & ~clips["person"].isin(test["person"])]
        if others["label"].nunique() == 2:
            parts.append(test.assign(elsewhere=metrics.best_threshold(others["label"], others["score"])))
    told = pd.concat(parts) if parts else clips[:0]
    real, fake = told[told["label"] == 0], told[told["label"] == 1]
    if real.empty or fake.empty:
        return None
    found = {
        name: {
            "reals_accused": float((real["score"] >= real[column]).mean()),
            "fakes_missed": float((fake["score"] < fake[column]).mean()),
        }
        for name, column in (("val", "threshold"), ("elsewhere", "elsewhere"))
    }
    by_val, by_others = (
        f"{of['reals_accused']:.0%} of the real clips are accused and {of['fakes_missed']:.0%} of the fakes missed"
        for of in found.values()
    )
    sentence = (
        f"Of {len(real)} real and {len(fake)} fake clips, each scored by networks that had seen nothing like it: by "
        f"thresholds of validation clips, {by_val}; by thresholds of what else was left out, {by_others}."
    )
    return {"real": len(real), "fake": len(fake), **found, "sentence": sentence}


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


def _measured(names: Mapping[str, Any], one: pd.DataFrame, by_seed: pd.DataFrame, n_draws: int, seed: int) -> Measured:
    """One method's on one test; by_seed: (clips, seeds) scores; one: a row of each clip."""
    labels, mean = one["label"].to_numpy(), by_seed.mean(axis=1).to_numpy()
    called = mean >= one["threshold"].to_numpy()
    n_fake, n_real = int((labels == 1).sum()), int((labels == 0).sum())
    row: dict[str, Any] = {
        **names,
        "seeds": by_seed.shape[1],
        "people": one["person"].nunique(),
        "real": n_real,
        "fake": n_fake,
        "fakes_missed": float((~called[labels == 1]).mean()) if n_fake else np.nan,
        "reals_accused": float(called[labels == 0].mean()) if n_real else np.nan,
    }
    if not (n_fake and n_real):
        return Measured(row, "one class only", 0)
    singles = [metrics.auc(labels, by_seed[column].to_numpy()) for column in by_seed]
    row |= {"auc": metrics.auc(labels, mean), "eer": metrics.eer(labels, mean), "auc_one": float(np.mean(singles))}
    drawn: Floats | str
    pairs: Floats | int
    try:
        people = draw_people(one["person"], draws=n_draws, seed=seed, least=2)
        drawn, pairs = drawn_metrics(labels, mean, people, fast=True)["auc"], drawn_pairs(labels, people)
        interval(drawn)
    except UndefinedMetricError as error:
        drawn, pairs = str(error), n_fake * n_real
    test = Measured(row, drawn, pairs, _few(labels, one["person"]))
    return replace(test, row=row | _span(row["auc"], [test], MEAN))


def _few(labels: Ints, people: pd.Series[str]) -> str:
    try:
        enough_of_each(labels, people)
    except UndefinedMetricError as error:
        return str(error)
    return ""


def _span(auc: float, tests: Sequence[Measured], of: str) -> dict[str, Any]:
    """What a row tells beside its AUC over the tests: the interval, or why there is none."""
    found = value(auc, _drawn_mean(tests, of))
    return {f"auc_{key}": found[key] for key in ("low", "high", "reason") if found[key] is not None}


def _mean(tests: Sequence[Measured], of: str) -> dict[str, Any]:
    """The row of a method's mean over tests; its interval draws tests, and people of each."""
    rows = [test.row for test in tests]
    found = {"trained_on": of, "tested_on": f"{len(rows)} tests", "method": rows[0]["method"]}
    if of == PAIRS:
        found["tested_on"] += f", {_holding_most(rows)} of them with {100 * _MOST_PAIRS:.0f} % of the pairs"
    found["seeds"] = min(row["seeds"] for row in rows)
    found |= {key: sum(row[key] for row in rows) for key in ("people", "real", "fake")}
    found |= {key: _average(tests, key, of) for key in ("auc", "eer", "auc_one", "fakes_missed", "reals_accused")}
    return found | _span(found["auc"], tests, of)


def _holding_most(rows: Sequence[Mapping[str, Any]]) -> int:
    """How many tests, the largest first, hold _MOST_PAIRS of the pairs."""
    pairs = np.sort([row["real"] * row["fake"] for row in rows])[::-1]
    return int(np.searchsorted(np.cumsum(pairs), _MOST_PAIRS * pairs.sum())) + 1


def _average(tests: Sequence[Measured], key: str, of: str) -> float:
    """Over tests; by PAIRS each counts as often as there is what it is a share of: pairs, fakes, or reals."""
    rows = [test.row for test in tests]
    sides = {"fakes_missed": ["fake"], "reals_accused": ["real"]}.get(key, ["fake", "real"])
    counts = [np.prod([row[side] for side in sides]) if of == PAIRS else 1 for row in rows]
    return float(np.average([row[key] for row in rows], weights=counts))


def _drawn_mean(tests: Sequence[Measured], of: str) -> Floats | str:
    """(draws,) of the mean AUC over tests: each draw takes as many tests again, at random, and the people of each.

    What is claimed is of the next source or method, so that those at hand are a sample of them. By PAIRS a test counts
    as many as the people drawn of it make. A test of one person, or, by MEAN, a draw of it that lacks a class, counts
    with the test's own value. Why there are none, where tests, or a single one's people, are too few.
    """
    try:
        if len(tests) == 1:
            return tests[0].few or tests[0].drawn
        enough(len(tests), "tests")
    except UndefinedMetricError as error:
        return str(error)
    draws = next((len(test.drawn) for test in tests if not isinstance(test.drawn, str)), DRAWS)
    values = np.stack([np.full(draws, t.row["auc"]) if isinstance(t.drawn, str) else t.drawn for t in tests])
    points = np.array([[test.row["auc"]] for test in tests])
    counts = [np.broadcast_to(test.pairs if of == PAIRS else 1, draws) for test in tests]
    chosen = np.random.default_rng(len(tests)).integers(len(tests), size=values.shape)
    values, weights = (
        np.take_along_axis(each, chosen, axis=0)
        for each in (np.where(np.isfinite(values), values, points), np.stack(counts))
    )
    with np.errstate(invalid="ignore"):  # a draw without any pair says nothing
        return np.asarray((values * weights).sum(axis=0) / weights.sum(axis=0))
