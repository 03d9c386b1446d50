"""What the page's sections show, of the tables and JSON files that other commands left: plain values and figures.

A part that was not measured is None; its section then says by which command it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from cache_schemas.run import NETWORKS, read_json
from pipeline.report.drawings import risk, severities
from pipeline.report.page import lead_span, p_value, signed, undefined
from pipeline.report.verdict import Json
from pipeline.workspace import Workspace

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
