"""From scores to the content of metrics.json: pure functions of tables, no files and no networks.

A value over training seeds reads {mean, std (n - 1; null for one seed), per_seed, reason}; a value that the data
cannot define is null and its reason says why. Nothing is ever NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cache_schemas.run import NETWORKS
from pipeline.statistics import metrics
from pipeline.statistics.metrics import UndefinedMetricError
from pipeline.statistics.people import draw_people, drawn_metrics, interval

Metric = Callable[[Any, Any], float]

SMALL_CLIPS, SMALL_SUBJECTS, SMALL_CLASS = 100, 20, 20
"""A test split below one of these (clips, subjects, clips of the rarer class) is called small."""

SHORTCUT_AUC = 0.7
SHORTCUTS = {
    "duration_s": "duration",
    "leading_silence_s": "leading silence",
    "loudness_db": "loudness",
    "width_px": "picture width",
    "height_px": "picture height",
    "fps": "frame rate",
    "file_bytes": "file size",
}
"""Properties of the container and its sound that should know nothing about the label, and what to call them."""

REAL_TWIN = {"RVFA": "RVRA", "FVRA": "RVRA", "FVFA": "RVRA", "FV-": "RV-"}
"""Fake category -> the real one it is held against: with sound against with sound, mute against mute."""

METRICS: Mapping[str, Metric] = {
    "auc": metrics.auc,
    "eer": metrics.eer,
    "average_precision": metrics.average_precision,
    "balanced_accuracy": metrics.balanced_accuracy,
}

_DRAWS = 1000  # of the people, for an interval
_MAX_POINTS = 500  # of a ROC curve


def measure(index: pd.DataFrame, scores: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """The content of metrics.json.

    index: every window of the data set, as `pipeline.runs.cache.clip_index` gives it; scores: the rows of scores.csv;
    seed: that of the bootstrap.
    """
    test = clips(index[index["split"] == "test"])
    counts = _counts(index[index["split"] == "test"], test)
    of_network = dict(list(scores.groupby("network")))
    networks = {name: measure_network(of_network[name], seed) for name in NETWORKS if name in of_network}
    small = why_small(counts)
    summary = {
        name: {metric: result["clip"][metric]["mean"] for metric in METRICS} | {"auc_std": result["clip"]["auc"]["std"]}
        for name, result in networks.items()
    }
    fusion_auc = summary.get("fusion", {}).get("auc")
    return {
        "schema_version": 1,
        "summary": summary,
        "small_set": small is not None,
        "small_set_reason": small,
        "counts": counts,
        "networks": networks,
        "shortcuts": audit_shortcuts(test, clips(index), fusion_auc),
    }


def clips(windows: pd.DataFrame) -> pd.DataFrame:
    """One row a clip, in the order of `windows`: its first window's row, with the clip's own category and label.

    A fake clip is one whatever its windows hold: its fake seconds may be too few in each, or where no face is seen.
    """
    table: pd.DataFrame = windows.drop_duplicates("clip_id").set_index("clip_id")
    category = table["clip_category"]
    return table.assign(category=category, label=category.str.contains("F").astype(int))


def measure_network(scores: pd.DataFrame, seed: int) -> dict[str, Any]:
    """One network's entry of metrics.json; scores: its rows of scores.csv, all seeds."""
    seeds = sorted(int(value) for value in scores["seed"].unique())
    windows = _by_seed(scores, ["clip_id", "window"], seeds)
    clip = _by_seed(scores, ["clip_id"], seeds)
    table = clips(scores).loc[clip.index]
    labels, values = table["label"].to_numpy(), clip.to_numpy().T
    window_labels = scores.drop_duplicates(["clip_id", "window"]).set_index(["clip_id", "window"])["label"]
    averaged = values.mean(axis=0)
    return {
        "seeds": seeds,
        "window": _all_metrics(window_labels.loc[windows.index].to_numpy(), windows.to_numpy().T),
        "clip": _all_metrics(labels, values)
        | {"auc_interval": _interval(labels, values, table["subject_id"].to_numpy(), seed)},
        "seed_average": {name: _value(metric, labels, averaged) for name, metric in METRICS.items()},
        "per_category": _per_category(table, values, seed),
        "per_method": _per_method(table, values),
    }


def _by_seed(scores: pd.DataFrame, keys: list[str], seeds: list[int]) -> pd.DataFrame:
    """The mean score per key (rows, in order of appearance) and seed (columns)."""
    means: pd.DataFrame = scores.groupby([*keys, "seed"], sort=False)["score"].mean().unstack("seed")
    return means[seeds]


def _all_metrics(labels: NDArray[Any], rows: NDArray[np.float64]) -> dict[str, Any]:
    return {name: _over_seeds(metric, labels, rows) for name, metric in METRICS.items()}


def _over_seeds(metric: Metric, labels: NDArray[Any], rows: NDArray[np.float64]) -> dict[str, Any]:
    """rows: (seeds, clips)."""
    try:
        values = [metric(labels, row) for row in rows]
    except UndefinedMetricError as error:
        return {"mean": None, "std": None, "per_seed": [None] * len(rows), "reason": str(error)}
    std = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "std": std, "per_seed": values, "reason": None}


def _value(metric: Metric, labels: NDArray[Any], scores: NDArray[np.float64]) -> dict[str, Any]:
    try:
        return {"value": metric(labels, scores), "reason": None}
    except UndefinedMetricError as error:
        return {"value": None, "reason": str(error)}


def _interval(labels: NDArray[Any], rows: NDArray[np.float64], subjects: NDArray[Any], seed: int) -> dict[str, Any]:
    level = 0.95
    known: dict[str, Any] = {"level": level, "subjects": len(np.unique(subjects))}
    try:
        draws = draw_people(subjects, draws=_DRAWS, seed=seed)
        means = np.mean([drawn_metrics(labels, row, draws)["auc"] for row in rows], axis=0)
        found = interval(means, level=level)
    except UndefinedMetricError as error:
        return known | {"low": None, "high": None, "resamples": 0, "reason": str(error)}
    return known | {"low": found.low, "high": found.high, "resamples": found.draws, "reason": None}


def _against(table: pd.DataFrame, rows: NDArray[np.float64], fake: Any, real: Any) -> dict[str, Any]:
    chosen = (fake | real).to_numpy()
    labels = fake.to_numpy()[chosen].astype(int)
    return {
        "n_fake": int(fake.sum()),
        "n_real": int(real.sum()),
        "auc": _over_seeds(metrics.auc, labels, rows[:, chosen]),
        "eer": _over_seeds(metrics.eer, labels, rows[:, chosen]),
    }


def _per_category(table: pd.DataFrame, rows: NDArray[np.float64], seed: int) -> dict[str, Any]:
    found = {}
    for name, twin in REAL_TWIN.items():
        fake, real = table["category"] == name, table["category"] == twin
        if fake.any():
            both = (fake | real).to_numpy()
            subjects = table["subject_id"].to_numpy()[both]
            interval = _interval(fake.to_numpy()[both].astype(int), rows[:, both], subjects, seed)
            found[name] = {"against": twin} | _against(table, rows, fake, real) | {"auc_interval": interval}
    return found


def _per_method(table: pd.DataFrame, rows: NDArray[np.float64]) -> dict[str, Any]:
    fake, real = table["label"] == 1, table["label"] == 0
    names = sorted(str(name) for name in table.loc[fake, "method"].unique())
    return {name: _against(table, rows, fake & (table["method"] == name), real) for name in names}


def _counts(windows: pd.DataFrame, table: pd.DataFrame) -> dict[str, int]:
    return {
        "windows": len(windows),
        "clips": len(table),
        "subjects": int(table["subject_id"].nunique()),
        "real_clips": int((table["label"] == 0).sum()),
        "fake_clips": int((table["label"] == 1).sum()),
    }


def why_small(counts: Mapping[str, int]) -> str | None:
    """Why a test split of so many clips, subjects, real_clips and fake_clips claims nothing; None where it may."""
    rarer = min(counts["real_clips"], counts["fake_clips"])
    enough = counts["clips"] >= SMALL_CLIPS and counts["subjects"] >= SMALL_SUBJECTS and rarer >= SMALL_CLASS
    if enough:
        return None
    return (
        f"The test split holds {counts['clips']} clips of {counts['subjects']} subjects ({counts['real_clips']} real, "
        f"{counts['fake_clips']} fake). That is too few to claim an accuracy: below {SMALL_CLIPS} clips, "
        f"{SMALL_SUBJECTS} subjects or {SMALL_CLASS} clips of either class, chance moves every number here by a lot."
    )


def audit_shortcuts(test: pd.DataFrame, everything: pd.DataFrame, network_auc: float | None) -> dict[str, Any]:
    """How well each container property alone tells fake from real; test, everything: one row a clip.

    A property that is missing (NaN) more often in one class gives that class away too: `auc` is the larger of the
    separability of the known values and that of being known.
    """
    properties: list[dict[str, Any]] = [
        {"property": name, "test": shortcut_auc(test, name), "all": shortcut_auc(everything, name)}
        for name in SHORTCUTS
    ]
    for entry in properties:
        on_test = entry["test"]["auc"]
        entry["suspicious"] = max(entry[scope]["auc"] or 0.0 for scope in ("test", "all")) > SHORTCUT_AUC
        entry["beats_network"] = None not in (on_test, network_auc) and on_test >= network_auc
    return {
        "threshold": SHORTCUT_AUC,
        "network_auc": network_auc,
        "chance": {"test": chance_auc(test), "all": chance_auc(everything)},
        "properties": properties,
        "warning": _shortcut_warning(properties),
    }


def shortcut_auc(table: pd.DataFrame, name: str) -> dict[str, Any]:
    """How well the column `name` alone tells label 1 from 0: {auc, known, clips, reason}; its NaN are "not known"."""
    labels, values = table["label"].to_numpy(), table[name].to_numpy(dtype=float)
    known = np.isfinite(values)
    if not known.any():
        return {"auc": None, "known": 0, "clips": len(table), "reason": "known for no clip"}
    found = _value(metrics.separability, labels[known], values[known])
    if not known.all():
        absence = _value(metrics.separability, labels, known.astype(float))
        found = max(found, absence, key=lambda each: each["value"] or 0.0)
    return {"auc": found["value"], "known": int(known.sum()), "clips": len(table), "reason": found["reason"]}


def chance_auc(table: pd.DataFrame) -> float | None:
    """What 19 of 20 columns that know nothing of the label stay below; None without both classes."""
    n_fake = int(table["label"].sum())
    try:
        return metrics.chance_separability(len(table) - n_fake, n_fake)
    except UndefinedMetricError:
        return None


def _shortcut_warning(properties: Sequence[Mapping[str, Any]]) -> str | None:
    suspicious = [each["property"] for each in properties if each["suspicious"]]
    beating = [each["property"] for each in properties if each["beats_network"]]
    parts = []
    if suspicious:
        parts.append(
            f"{_each(suspicious)} alone separates fake from real with an AUC above {SHORTCUT_AUC:g}: "
            "a detector can look right on these data without looking at a face or listening to a voice."
        )
    if beating:
        parts.append(f"{_each(beating)} alone does at least as well on the test split as the fusion network.")
    return " ".join(parts) or None


def _each(names: Sequence[str]) -> str:
    return f"Each of {', '.join(names)}" if len(names) > 1 else names[0]


def curves(scores: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(roc, det): network, fpr, tpr and network, fpr, fnr; clip level, scores averaged over windows and seeds."""
    parts = []
    for name in NETWORKS:
        group = scores[scores["network"] == name]
        score = group.groupby("clip_id", sort=False)["score"].mean()
        try:
            fpr, tpr = metrics.roc_points(clips(group)["label"], score, max_points=_MAX_POINTS)
        except UndefinedMetricError:
            continue
        parts.append(pd.DataFrame({"network": name, "fpr": fpr, "tpr": tpr}))
    roc = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["network", "fpr", "tpr"])
    det = roc.assign(fnr=1 - roc["tpr"])[["network", "fpr", "fnr"]]
    return roc, det
