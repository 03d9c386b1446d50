"""What the page's sections show, of the tables and JSON files that other commands left: plain values and figures.

A part that was not measured is None; its section then says by which command it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cache_schemas.protocol import read_protocol
from cache_schemas.run import NETWORKS, read_json
from pipeline.report.drawings import Json, risk, severities, span_of
from pipeline.report.page import in_words, lead, lead_span, p_value, signed, undefined
from pipeline.statistics.added import ENOUGH
from pipeline.statistics.protocol import MEAN, MEANS, PAIRS, disagree
from pipeline.workspace import Workspace

UNSEEN = {
    "leave-one-source-out": ("dataset", "sources never seen"),
    "leave-one-method-out": ("method", "methods of forgery never seen"),
}
"""Protocols whose figures stand on the first screen: what they leave out, and what they are tested on."""

METRICS = {
    "auc": ("AUC", "value"),
    "average_precision": ("Average precision", "value"),
    "eer": ("D-EER", "rate"),
    "apcer": ("APCER", "rate"),
    "bpcer": ("BPCER", "rate"),
    "bpcer_at_apcer_1": ("BPCER at APCER 1 %", "rate"),
    "bpcer_at_apcer_5": ("BPCER at APCER 5 %", "rate"),
    "bpcer_at_apcer_10": ("BPCER at APCER 10 %", "rate"),
    "balanced_accuracy": ("Balanced accuracy", "rate"),
    "f1": ("F1", "value"),
    "log_loss": ("Log loss", "value"),
    "brier": ("Brier score", "value"),
    "calibration_error": ("Calibration error", "value"),
    "min_dcf": ("minDCF", "value"),
    "act_dcf": ("actDCF", "value"),
    "cllr": ("Cllr", "value"),
    "cllr_min": ("Cllr_min", "value"),
}
"""Of the table of all metrics: how each is called and written."""

_EVIDENCE = {
    "coverage": ("Answered (coverage)", "rate"),
    "risk": ("Wrong, of the answered", "rate"),
    "risk_if_all_were_answered": ("Wrong, were all answered", "rate"),
    "cost": ("Cost a clip", "value"),
    "cost_if_all_were_answered": ("Cost a clip, were all answered", "value"),
    "area": ("Area under risk against coverage", "value"),
}
_LOCALISATION = {"ap": "AP at IoU", "ar": "AR of"}
_PROTOCOL_ROW = ("auc", "auc_low", "auc_high", "auc_reason", "auc_one", "eer", "fakes_missed", "reals_accused")


def protocols_in(folder: Path) -> list[Json]:
    """Every protocol that was run, those of `UNSEEN` first: the content of its protocol.json, and its name."""
    order = list(UNSEEN)
    paths = sorted(folder.glob("*/protocol.json"))
    paths.sort(key=lambda path: order.index(path.parent.name) if path.parent.name in order else len(order))
    found = [read_protocol(path) | {"name": path.parent.name} for path in paths]
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


def warnings(metrics: Json, elsewhere: Sequence[str]) -> list[str]:
    """What a reader must know before any number."""
    found = []
    if elsewhere:
        found.append(
            "Made on another cache than work/features.zarr holds now, and no longer true of it: the results of "
            f"{', '.join(elsewhere)}. Run these commands again."
        )
    if metrics["small_set"]:
        found.append(metrics["small_set_reason"])
    if metrics["shortcuts"]["warning"]:
        found.append(metrics["shortcuts"]["warning"])
    found += [entry["says"][0].upper() + entry["says"][1:] for entry in metrics["audit"] or [] if entry["found"]]
    return found


def breakdown(metrics: Json, key: str) -> Json:
    """A table of parts (per_category, ...): the networks' names, and a row a part with one entry a network."""
    systems = {name: metrics["systems"][name] for name in NETWORKS if name in metrics["systems"]}
    parts = next(iter(systems.values()))[key] if systems else {}
    rows = [
        {"name": name, "entries": [system[key][name] for system in systems.values()]}
        | {side: part[side] for side in ("n_real", "n_fake", "against")}
        for name, part in parts.items()
    ]
    return {"networks": list(systems), "rows": rows}


def metric_table(metrics: Json, level: str) -> list[Json]:
    """Every metric of the networks: {title, kind, values}, those without any value left out."""
    networks = [name for name in NETWORKS if name in metrics["systems"]]
    rows = []
    for name, (title, kind) in METRICS.items():
        values = [metrics["systems"][network][level].get(name) for network in networks]
        if any(values):
            rows.append({"title": title, "kind": kind, "values": values})
    return rows


def comparisons(metrics: Json) -> dict[str, Markup]:
    """{system: what the fusion network's AUC is higher by}, with the interval and the adjusted p."""
    return {row["system"]: difference(row) for row in metrics["comparisons"]}


def difference(row: Mapping[str, Any]) -> Markup:
    """A paired difference with its interval and adjusted p, or why there is none; row: of `comparisons`."""
    if row["difference"] is None:
        return undefined(row["reason"])
    point, span = signed(row["difference"]), lead_span(row)
    if row["low"] is None:
        return Markup('{} <span class="undefined"><small>{}</small></span>').format(point, span)
    return Markup("{} <small>{}</small><small>{}</small>").format(point, span, p_value(row["p_holm"]))


def evidence(metrics: Json) -> Json | None:
    """{networks, rows, withheld, chart}: what the answers are worth; None where it was not measured.

    rows: {title, kind, values} of the networks; withheld: (reason, clips of each network that have no answer for it).
    """
    found = metrics["evidence"]
    systems = {name: of for name, of in (found or {}).get("systems", {}).items() if not of["reason"]}
    if not systems:
        return None
    of_systems = list(systems.values())
    rows = [
        {"title": title, "kind": kind, "values": [of[name] for of in of_systems]}
        for name, (title, kind) in _EVIDENCE.items()
    ]
    reasons = list(dict.fromkeys(reason for of in of_systems for reason in of["withheld"]))
    none = {"clips": 0, "real": 0, "fake": 0}
    withheld = [(reason, [of["withheld"].get(reason, none) for of in of_systems]) for reason in reasons]
    drawn = risk(systems)
    clips = [(of["clips"], of["answered"]) for of in of_systems]
    return {"networks": list(systems), "clips": clips, "rows": rows, "withheld": withheld, "chart": drawn}


def localisation(metrics: Json) -> Json | None:
    """{counts, rows: (measure, value, what windows can reach at best)}; None where it was not measured."""
    found = metrics["localisation"]
    if not found:
        return None
    rows = [
        (f"{_LOCALISATION[kind]} {name}", value, found["oracle"][kind][name])
        for kind in _LOCALISATION
        for name, value in found[kind].items()
    ]
    return {"counts": found, "rows": rows}


def robustness(workspace: Workspace) -> Json | None:
    """{systems, curves, charts, left_out} of `bmnas robustness`; None where it did not run.

    curves: {title, modality, settings, rows: (system, values from the clean clips on)}.
    """
    path = workspace.robustness / "robustness.json"
    if not path.exists():
        return None
    found = read_json(path, "robustness")
    curves = []
    for curve in found["curves"]:
        points = curve["severities"]
        rows = [(name, [of_clean, *(p["systems"][name] for p in points)]) for name, of_clean in curve["clean"].items()]
        curves.append({**curve, "settings": [p["setting"] for p in points], "rows": rows})
    first = next(iter(found["clean"]))
    drawn = {
        modality: severities(modality, [curve for curve in curves if curve["modality"] == modality], first)
        for modality in dict.fromkeys(curve["modality"] for curve in curves)
    }
    most = max((len(curve["settings"]) for curve in curves), default=0)
    return {"system": first, "curves": curves, "charts": drawn, "most": most, "left_out": len(found["left_out"])}
