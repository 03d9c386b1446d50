"""What the searched network adds to everything else that was scored on the same clips, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipeline.statistics.compare import paired, with_holm
from pipeline.statistics.matching import matched
from pipeline.statistics.means import ENOUGH
from pipeline.statistics.metrics import Floats, UndefinedMetricError
from pipeline.statistics.people import Draws
from pipeline.statistics.strength import signed
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
    return with_holm(rows)


def _difference(name: str, ours: float, of: Mapping[str, Any], drawn: Mapping[str, Floats | str]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("difference", "low", "high", "p", "reason"))
    theirs = of["clip"]["auc"]
    if theirs["value"] is None:
        return {"system": name} | row | {"reason": theirs["reason"]}
    return {"system": name} | row | paired(ours - theirs["value"], drawn[FUSION], drawn[name])


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
        adds = {"control": control} | {key: row[key] for key in ("difference", "low", "high", "p", "reason")}
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
        text += f" It adds {in_a_word(adds, 'the strongest control, ' + _called(adds['control']))}."
    if worst:
        span = "" if worst["auc"]["low"] is None else _span(worst["auc"])
        text += f" It is worst on {worst['method']}, with an AUC of {worst['auc']['value']:.3f}{span}."
    return text


def _called(system: str) -> str:
    return {"visual": "the picture alone", "audio": "the sound alone"}.get(system, system)


def _span(value: Mapping[str, Any]) -> str:
    if value["low"] is None:
        return f"; {value['reason']}"
    return f" (95 % interval {value['low']:.3f} to {value['high']:.3f})"


def in_a_word(adds: Mapping[str, Any], over: str) -> str:
    """What is added to `over`, and whether that is something, by its interval; adds: of `paired`."""
    text = f"{signed(adds['difference'], 3)} to {over}"
    if adds["low"] is None:
        return f"{text}; {adds['reason']}"
    word = "it adds something" if adds["low"] > 0 else "chance alone could make that difference"
    word = "it is worse" if adds["high"] < 0 else word
    span = f"{signed(adds['low'], 3)} to {signed(adds['high'], 3)}"
    return f"{text} (95 % interval of the difference {span}): {word}"


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
