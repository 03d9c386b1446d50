"""What one system is worth: a searched network, or a control, as all its scores show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.statistics.metrics import Floats, UndefinedMetricError
from pipeline.statistics.people import Draws, over_seeds
from pipeline.statistics.tables import Level, System, system_of
from pipeline.statistics.values import (
    METRICS,
    Chosen,
    Value,
    affordable,
    choose,
    drawn_points,
    measured,
    points,
    undefined,
    value,
)  # fmt: skip

FUSION = "fusion"
RANDOM_WEIGHTS = "random weights"
PROPERTIES, BEST_PROPERTY = "properties, all together", "property, the best on val"
PROBE = "logistic regression, all layers"
SAMPLED = "random architectures"
"""Networks of architectures that nobody searched or chose, one a seed: what a search has to beat."""
OTHER_SOUND = "sound of another clip"
NETWORKS: Mapping[str, str] = {
    FUSION: "the searched network: picture and sound",
    "visual": "the same search on the picture's features alone",
    "audio": "the same search on the sound's features alone",
}
CONTROLS: Mapping[str, str] = {
    RANDOM_WEIGHTS: "a linear probe on the same backbones with random weights: what features that know nothing give",
    PROPERTIES: "a small model of the files' properties: it sees no face and hears no voice",
    BEST_PROPERTY: "the one property of the files that is the best on val",
    PROBE: "a linear probe on the same features",
    "SVM, all layers": "a kernel probe on the same features",
    OTHER_SOUND: "the searched network, heard with another clip's sound of the same category",
}
"""Name of a system -> what it is."""

REAL_TWIN = {"RVFA": "RVRA", "FVRA": "RVRA", "FVFA": "RVRA", "FV-": "RV-"}
"""Fake category -> the real one it is held against: with sound against with sound, mute against mute."""

_PARTS = ("auc", "eer", "apcer", "bpcer")
_Part = tuple[str, str, NDArray[np.bool_], NDArray[np.bool_]]
"""(name, what it is held against, (clips,) the fakes, (clips,) the real ones)"""


def systems_of(table: pd.DataFrame, scores: pd.DataFrame) -> dict[str, System]:
    """Every system, networks first; table: the clips by clip_id, sorted; scores: the rows of scores.csv.

    Raises ValueError where one was scored on other test clips than the others: they could not be compared.
    """
    of_system = dict(list(scores.groupby("system", sort=False)))
    known = [name for name in (*NETWORKS, *CONTROLS) if name in of_system]
    named = [*known, *(str(name) for name in of_system if name not in known)]
    found = {name: system_of(table, of_system[name]) for name in named}
    for name, of in found.items():
        if not np.array_equal(of.clip.test.at, found[named[0]].clip.test.at):
            raise ValueError(f"scores of {name} are of other test clips than those of {named[0]}")
    return found


def measure_system(
    name: str, system: System, table: pd.DataFrame, draws: Draws | str, *, seed: int
) -> tuple[dict[str, Any], Floats | str]:
    """(one system's entry of metrics.json, its clips' AUC in every draw or why there is none).

    table: the clips by clip_id, sorted; draws: of the people of all its rows; seed: of the draws of training seeds.
    """
    values, drawn = _level(system.clip, cut(draws, system.clip.test.at, len(system.clip.test.at)))
    of_windows, _ = _level(system.window, cut(draws, system.window.test.at, 2 * len(system.window.test.at)))
    chosen = system.clip.chosen
    entry = {
        "kind": "network" if name in NETWORKS else "control",
        "what": {**NETWORKS, **CONTROLS}.get(name, ""),
        "seeds": system.seeds,
        "threshold": None if isinstance(chosen, str) else chosen.threshold,
        "clip": values,
        "window": of_windows,
        "one_network": _one_network(system, draws, seed),
        "pooling": _pooling(system, values["auc"], draws),
        **_breakdown(system, table, chosen, draws),
    }
    return entry, drawn["auc"]


def _level(level: Level, draws: Draws | str) -> tuple[dict[str, Value], dict[str, Floats | str]]:
    test = level.test
    values, drawn = measured(test.labels, test.mean, level.chosen, draws)
    values["average_precision"]["prevalence"] = float(test.labels.mean()) if len(test.labels) else None
    return values, drawn


def cut(draws: Draws | str, at: NDArray[np.intp], cost: int) -> Draws | str:
    """The draws for rows of the table, or why there are none; cost: scores that are measured in each."""
    try:
        return draws if isinstance(draws, str) else draws.of(at, most=affordable(cost))
    except UndefinedMetricError as error:
        return str(error)


def _one_network(system: System, draws: Draws | str, seed: int) -> dict[str, Any]:
    """{metric: mean, std, per_seed, low, high} of single networks, each with its own threshold and calibration.

    The interval is the method's: over people, and over the seeds that training might have had.
    """
    val, test = system.clip.val, system.clip.test
    chosen = [choose(val.labels, row) for row in val.scores]
    each = [points(test.labels, row, by)[0] for row, by in zip(test.scores, chosen, strict=True)]
    drawn_for = cut(draws, test.at, 2 * test.scores.size)
    drawn: list[dict[str, Floats]] = []
    with suppress(UndefinedMetricError):
        if not isinstance(drawn_for, str):
            drawn = [drawn_points(test.labels, row, by, drawn_for) for row, by in zip(test.scores, chosen, strict=True)]
    found = {}
    for name in METRICS:
        per_seed = [of.get(name) for of in each]
        known = [number for number in per_seed if number is not None]
        whole = len(known) == len(per_seed)
        span = undefined("")
        if whole and all(name in of for of in drawn) and drawn:
            span = value(0.0, over_seeds(np.stack([of[name] for of in drawn], axis=1), seed=seed))
        found[name] = {
            "mean": float(np.mean(known)) if whole else None,
            "std": float(np.std(known, ddof=1)) if whole and len(known) > 1 else None,
            "per_seed": per_seed,
            "low": span["low"],
            "high": span["high"],
        }
    return found


def _pooling(system: System, mean: Value, draws: Draws | str) -> dict[str, Value]:
    test = system.clip.test
    drawn_for = cut(draws, test.at, len(system.pooled) * len(test.at))
    return {
        name: mean if name == "mean" else measured(test.labels, scores, "", drawn_for, ("auc",))[0]["auc"]
        for name, scores in system.pooled.items()
    }


def _breakdown(
    system: System, table: pd.DataFrame, chosen: Chosen | str, draws: Draws | str
) -> dict[str, dict[str, Any]]:
    """per_category, per_method, per_group, per_source: {name: counts, what it is held against, _PARTS}."""
    test, scores = table.iloc[system.clip.test.at], system.clip.test.mean
    found: dict[str, dict[str, Any]] = {}
    for kind, parts in _partitions(test).items():
        cost = sum(int((fake | real).sum()) for *_, fake, real in parts) * 8
        found[kind] = {}
        for name, against, fake, real in parts:
            mine = fake | real
            drawn_for = cut(draws, system.clip.test.at[mine], cost)
            values, _ = measured(fake[mine].astype(int), scores[mine], chosen, drawn_for, _PARTS)
            counts = {"n_real": int(real.sum()), "n_fake": int(fake.sum()), "against": against}
            found[kind][name] = counts | values
    return found


def _partitions(test: pd.DataFrame) -> Mapping[str, list[_Part]]:
    fake = test["label"].to_numpy() == 1
    category, method = test["category"].to_numpy(), test["method"].to_numpy()
    categories = [(c, twin, category == c, category == twin) for c, twin in REAL_TWIN.items() if (category == c).any()]
    names = sorted(set(method[fake]))
    methods = [(str(name), "all real clips", fake & (method == name), ~fake) for name in names]
    return {
        "per_category": categories,
        "per_method": methods,
        "per_group": list(_inside(test["group"].to_numpy(), fake)),
        "per_source": list(_inside(test["dataset"].to_numpy(), fake)),
    }


def _inside(column: NDArray[Any], fake: NDArray[np.bool_]) -> Iterator[_Part]:
    for name in sorted(set(column) - {""}):
        mine = column == name
        yield str(name), "its own real clips", mine & fake, mine & ~fake
