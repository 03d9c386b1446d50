"""What a detector is worth, in words: of metrics.json and protocols.

Apart from the page's other sections, for whoever opens a bundle has neither their tables nor what draws them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache_schemas.protocol import read_protocol
from pipeline.report.page import in_words, lead
from pipeline.statistics.means import ENOUGH, MEAN, MEANS, PAIRS, disagree

Json = dict[str, Any]
UNSEEN = {
    "leave-one-source-out": ("dataset", "sources never seen"),
    "leave-one-method-out": ("method", "methods of forgery never seen"),
}
"""Protocols whose figures stand on the first screen: what they leave out, and what they are tested on."""

_PROTOCOL_ROW = ("auc", "auc_low", "auc_high", "auc_reason", "auc_one", "eer", "fakes_missed", "reals_accused")


def protocols_in(folder: Path) -> list[Json]:
    """Every protocol that was run, those of `UNSEEN` first: the content of its protocol.json, and its name."""
    order = list(UNSEEN)
    paths = sorted(folder.glob("*/protocol.json"))
    paths.sort(key=lambda path: order.index(path.parent.name) if path.parent.name in order else len(order))
    found = [{"carry_over": None} | read_protocol(path) | {"name": path.parent.name} for path in paths]
    for protocol in found:
        protocol["rows"] = [dict.fromkeys(_PROTOCOL_ROW) | row for row in protocol["rows"]]
    return found


def unseen(found: Sequence[Json]) -> list[Json]:
    """Per protocol of `UNSEEN`: {name, what, auc, mean, tests, worst, adds}; `auc` is None where none such was run.

    A protocol of the user's own counts if it leaves the same out. The AUC is that of its first method: over the pairs
    inside its tests, where there are several, and `mean` that over tests. The worst is a test of clips enough.
    """
    result = []
    for name, (left_out, what) in UNSEEN.items():
        entry: Json = {"name": name, "what": what, **dict.fromkeys(("auc", "mean", "tests", "worst", "adds"))}
        known = [of for of in found if (of["protocol"]["kind"], of["protocol"]["by"]) == ("leave-one-out", left_out)]
        if known:
            protocol = next((of for of in known if of["name"] == name), known[0])
            rows = protocol["rows"]
            mine = [row for row in rows if row["method"] == rows[0]["method"]]
            means = {row["trained_on"]: row for row in mine if row["trained_on"] in MEANS}
            leading = means.get(PAIRS, mine[0])
            single = [row for row in mine if row["trained_on"] not in MEANS and row["auc"] is not None]
            large = [row for row in single if min(row["real"], row["fake"]) >= ENOUGH]
            worst = min(large, key=lambda row: float(row["auc"]), default=None)
            entry |= {
                "name": protocol["name"],
                "auc": span_of(leading),
                "mean": span_of(means[MEAN]) if means else None,
                "tests": leading["tested_on"],
                "worst": worst and {"name": worst["tested_on"], "auc": span_of(worst)},
                "adds": protocol["adds"],
            }
        result.append(entry)
    return result


def verdict(metrics: Json, tests: Sequence[Json]) -> str:
    """What it is worth: on what is like nothing that was seen, which matters most, and on the rest.

    Where it depends on how tests are counted whether it adds anything, a second sentence says so.
    """
    head = metrics["headline"]
    if head is None or head["auc"]["value"] is None:
        return "Nothing can be said: " + (
            head["auc"]["reason"] if head else "no searched network was trained and scored."
        )
    known = [entry for entry in tests if entry["auc"] and entry["auc"]["value"] is not None]
    parts = [f"{_said(entry['auc'])} on {entry['what']}" for entry in known]
    parts.append(f"{_said(head['auc'])} on other people of the sources and methods that it knows")
    unknown = [entry["what"] for entry in tests if entry not in known]
    end = f"; what it reaches on {' or '.join(unknown)} was not measured." if unknown else "."
    text = "The searched network ranks fakes above bona fide clips (a coin: 0.5) with an AUC (95 % interval) of "
    if any(auc["low"] is None for auc in (head["auc"], *(entry["auc"] for entry in known))):
        text = "The searched network reaches an AUC (a coin: 0.5) of "
    text += f"{_listed(parts)}{end}"
    for entry in known:
        if entry["adds"] and disagree(entry["adds"]):
            by_pairs, by_tests = (lead(entry["adds"][name]) for name in MEANS.values())
            text += (
                f" What it adds to the strongest control on {entry['what']} has another sign by each way of counting: "
                f"{by_pairs} where every pair of clips counts alike, {by_tests} where every test does."
            )
    return text


def _said(auc: Mapping[str, Any]) -> str:
    return in_words(auc) if auc["low"] is not None else f"{in_words(auc)}, {auc['reason'] or 'no interval'},"


def _listed(parts: Sequence[str]) -> str:
    *most, last = parts
    return f"{', '.join(most)} and of {last}" if most else last


def span_of(row: Mapping[str, Any]) -> Json:
    """A protocol row's AUC as a value."""
    reason = "one class only" if row["auc"] is None else row["auc_reason"]
    return {"value": row["auc"], "low": row["auc_low"], "high": row["auc_high"], "reason": reason}
