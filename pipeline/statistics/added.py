"""What the searched network adds to everything else that was scored on the same clips, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.statistics.compare import drawn_p, holm
from pipeline.statistics.matching import matched
from pipeline.statistics.means import ENOUGH
from pipeline.statistics.metrics import Floats, UndefinedMetricError
from pipeline.statistics.people import Draws, interval
from pipeline.statistics.systems import FUSION, OTHER_SOUND, PROPERTIES, cut
from pipeline.statistics.tables import System
from pipeline.statistics.values import measured


def strongest(systems: Mapping[str, Any]) -> str | None:
    """The system, but the searched network, of the highest AUC on the test clips; None where none has one.

    It is chosen on test, by what the network is then held against: a control that was lucky there makes what is added
    smaller, never larger. To choose it on val would let a network win against whichever was lucky on val. The network
    itself with another clip's sound is none: how much less that is says what it makes of the two being of one clip.
    """
    aucs = {name: of["clip"]["auc"]["value"] for name, of in systems.items() if name not in (FUSION, OTHER_SOUND)}
    known = {name: auc for name, auc in aucs.items() if auc is not None}
    return max(known, key=lambda name: known[name]) if known else None


def comparisons(systems: Mapping[str, Any], drawn: Mapping[str, Floats | str]) -> list[dict[str, Any]]:
    """[{system, difference, low, high, p, p_holm, reason}]: AUC of the searched network less each other's, paired.

    drawn: {system: (draws,) AUC in the same draws of people, or why there is none}. p: two-sided, of the paired
    bootstrap; p_holm: adjusted, so that any false alarm among all comparisons is as rare as it says.
    """
    ours = systems[FUSION]["clip"]["auc"]["value"] if FUSION in systems else None
    rows = [_difference(name, ours, of, drawn) for name, of in systems.items() if name != FUSION and ours is not None]
    tested = [row for row in rows if row["p"] is not None]
    for row, adjusted in zip(tested, holm([row["p"] for row in tested]) if tested else (), strict=True):
        row["p_holm"] = float(adjusted)
    return rows


def _difference(name: str, ours: float, of: Mapping[str, Any], drawn: Mapping[str, Floats | str]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "p_holm", "reason"))
    theirs, mine, other = of["clip"]["auc"]["value"], drawn[FUSION], drawn[name]
    if theirs is None:
        return {"system": name} | row | {"reason": of["clip"]["auc"]["reason"]}
    row["difference"] = ours - theirs
    try:
        if isinstance(mine, str) or isinstance(other, str):
            raise UndefinedMetricError(next(why for why in (mine, other) if isinstance(why, str)))
        span = interval(mine - other)
    except UndefinedMetricError as error:
        return {"system": name} | row | {"reason": f"no interval: {error}"}
    return {"system": name} | row | {"low": span.low, "high": span.high, "p": drawn_p(mine - other)}


def measure_matched(systems: Mapping[str, System], draws: Draws | str, *, seed: int) -> dict[str, Any] | None:
    """{clips, of, auc: {system: value}, reason}: AUCs on as many fakes as reals that the properties cannot tell apart.

    draws: of the people of the table's rows. None where the properties were not scored. How well the matching worked is
    what the properties come to: 0.5 is perfect.
    """
    if PROPERTIES not in systems:
        return None
    test = systems[PROPERTIES].clip.test
    found: dict[str, Any] = {"clips": 0, "of": len(test.at), "auc": {}, "reason": None}
    try:
        rows = np.sort(matched(test.labels, test.mean, seed=seed).ravel())
    except UndefinedMetricError as error:
        return found | {"reason": str(error)}
    draws = cut(draws, test.at[rows], len(rows) * len(systems))
    for name, system in systems.items():
        scores = system.clip.test.mean[rows]
        found["auc"][name] = measured(test.labels[rows], scores, "", draws, ("auc",))[0]["auc"]
    return found | {"clips": len(rows)}


def headline(
    systems: Mapping[str, Any], compared: list[dict[str, Any]], counts: Mapping[str, int]
) -> dict[str, Any] | None:
    """{system, auc, adds, worst_method, sentence}; None without the searched network.

    The worst method is one of those with enough fakes (of one clip, chance makes a worst one), and None where there are
    not two of them.
    """
    if FUSION not in systems:
        return None
    of, control = systems[FUSION], strongest(systems)
    adds = None
    if control is not None and of["clip"]["auc"]["value"] is not None:
        row = next(row for row in compared if row["system"] == control)
        adds = {"control": control} | {key: row[key] for key in ("difference", "low", "high", "p")}
    methods = {name: each["auc"] for name, each in of["per_method"].items() if each["n_fake"] >= ENOUGH}
    methods = {name: auc for name, auc in methods.items() if auc["value"] is not None}
    worst = min(methods, key=lambda name: float(methods[name]["value"])) if len(methods) > 1 else None
    found = {
        "system": FUSION,
        "auc": of["clip"]["auc"],
        "adds": adds,
        "worst_method": None if worst is None else {"method": worst, "auc": methods[worst]},
    }
    return found | {"sentence": _sentence(found, counts)}


def _sentence(found: Mapping[str, Any], counts: Mapping[str, int]) -> str:
    auc, adds, worst = found["auc"], found["adds"], found["worst_method"]
    held = f"On {counts['clips']} test clips of {counts['subjects']} people"
    if auc["value"] is None:
        return f"{held} nothing can be said: {auc['reason']}."
    text = f"{held} the searched network reaches an AUC of {auc['value']:.3f}{_span(auc)}."
    if adds:
        text += f" It adds {adds['difference']:+.3f} to the strongest control, {_called(adds['control'])}"
        if adds["p"] is not None:
            text += f" (95 % interval of the difference {adds['low']:+.3f} to {adds['high']:+.3f}): {in_a_word(adds)}"
        text += "."
    if worst:
        text += f" It is worst on {worst['method']}, with an AUC of {worst['auc']['value']:.3f}{_span(worst['auc'])}."
    return text


def _called(system: str) -> str:
    return {"visual": "the picture alone", "audio": "the sound alone"}.get(system, system)


def _span(value: Mapping[str, Any]) -> str:
    return "" if value["low"] is None else f" (95 % interval {value['low']:.3f} to {value['high']:.3f})"


def in_a_word(adds: Mapping[str, Any]) -> str:
    """Whether something is added, by the interval {low, high} of what is."""
    if adds["low"] > 0:
        return "it adds something"
    return "it is worse" if adds["high"] < 0 else "chance alone could make that difference"


def summary(systems: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """{system: {metric: number}} for `dvc metrics`: the networks, and the strongest of the others."""
    control = strongest({name: of for name, of in systems.items() if of["kind"] == "control"})
    shown = [name for name, of in systems.items() if of["kind"] == "network" or name == control]
    found: dict[str, dict[str, float]] = {}
    for name in shown:
        numbers = {metric: systems[name]["clip"][metric]["value"] for metric in SUMMARY}
        numbers["auc_one_network"] = systems[name]["one_network"]["auc"]["mean"]
        found[name] = {metric: number for metric, number in numbers.items() if number is not None}
    return found


SUMMARY = ("auc", "eer", "average_precision", "balanced_accuracy", "bpcer_at_apcer_5", "cllr")
"""The few metrics that are printed, and that `dvc metrics` shows."""
