"""The report stage: one HTML file that holds everything and asks nothing of the network, and what it was made of.

work/report/report.html                  readable without scripts; with them, the same figures are interactive
work/report/report.json                  what the page was made of: metrics, protocols, versions, digests, commands
work/report/metrics.json, scores.csv, clips.csv, protocols/   copies: `bmnas recompute` derives every figure of them
work/report/model-card.md, data-card.md  in Markdown
work/report/quarantine.csv               every clip that was left out, and why

Names of files and reasons come from outside: the templates escape them, and the page's own policy lets only its own
scripts run. The same results give the same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markupsafe import Markup

import nas
from cache_schemas.evaluation import read_evaluation, read_protocol_scores
from cache_schemas.features import FeatureCache
from cache_schemas.files import replacing, write_json, write_text
from cache_schemas.manifest import Quarantined, read_quarantine, write_quarantine
from cache_schemas.metrics import read_metrics
from cache_schemas.oracle import read_oracle
from cache_schemas.run import NETWORKS, RetrainRun, SearchRun, read_run
from cache_schemas.tables import read_table
from pipeline.compute.progress import progress_bar
from pipeline.datasets import LAYOUTS
from pipeline.figures.curves import curves_svg, history_svg, probabilities_svg
from pipeline.figures.experiments import oracle_svg
from pipeline.figures.genotype import describe, genotype_svg
from pipeline.params import Params
from pipeline.report import drawings, sections, verdict
from pipeline.report.cards import data_card, model_card
from pipeline.report.data import data_counts, people_counts, quarantine_summary
from pipeline.report.errors import add_pictures, worst_errors
from pipeline.report.page import render
from pipeline.report.reproduction import changed, commands, digests, made_elsewhere, versions
from pipeline.runs.cache import cache_identity, clip_index
from pipeline.runs.worth import said_first, warnings
from pipeline.statistics.means import MEANS
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.statistics.systems import FUSION
from pipeline.workspace import Workspace

QUARANTINE_STAGES = ("manifest", "spectrograms", "faces", "features")
CONTENTS = {
    "verdict": "What it is worth",
    "protocols": "Seen and unseen",
    "controls": "Controls",
    "methods": "Methods of forgery",
    "groups": "Groups and sources",
    "errors": "Error rates",
    "calibration": "Calibration",
    "evidence": "Evidence",
    "robustness": "Robustness",
    "localisation": "Localisation",
    "architecture": "Architecture",
    "training": "Search and training",
    "oracle": "Oracle",
    "data": "Data card",
    "worst": "Worst errors",
    "reproduction": "Reproduction",
}
_OPTIONAL = ("calibration", "matched", "localisation", "evidence", "audit", "looks", "left_out")
_TOLD = ("metrics", "data", "people", "params", "versions", "digests", "commands", "elsewhere")
_COPIED = ("metrics.json", "scores.csv", "clips.csv")


def build_report(workspace: Workspace, params: Params, *, faces: bool = True) -> Path:
    """The path of report.html; the folder of the report is written anew from what the other stages left.

    faces: False leaves out face crops and spectrograms.
    """
    metrics = dict.fromkeys(_OPTIONAL) | read_metrics(workspace.evaluate)
    search = read_run(workspace.search / "search.json", SearchRun)
    retrain = read_run(workspace.retrain / "retrain.json", RetrainRun)
    cache = FeatureCache.open(workspace.features)
    quarantined = [row for stage in QUARANTINE_STAGES for row in read_quarantine(workspace.quarantine(stage))]
    with progress_bar("report", total=4, unit="parts") as advance:
        advance(0, "tables")
        facts = {"metrics": metrics, **_facts(workspace, params, cache, search, retrain)}
        facts["quarantine"] = quarantine_summary(quarantined)
        measured = _measured(workspace, metrics, retrain, _protocols(workspace))
        measured["warnings"] = [*_elsewhere(facts["elsewhere"]), *measured["warnings"]]
        facts["commands"] = commands(
            measured["protocols"], robustness=bool(measured["robustness"]), oracle=bool(facts["oracle"])
        )
        advance(1, "figures")
        drawn = {
            "architectures": _architectures(search, list(cache.layers)),
            "plots": _plots(search, retrain),
            "histories": _histories(search),
            "charts": drawings.charts(metrics, _curves(workspace)),
            "heat_maps": [drawings.heat_map_of(each, number) for number, each in enumerate(measured["protocols"])],
        }
        advance(1, "worst errors")
        errors = _errors(workspace, metrics, faces=faces)
        advance(1, "page")
        page = render(
            "report.html.j2",
            **facts,
            **measured,
            **drawn,
            **errors,
            contents=list(CONTENTS.items()),
            networks=NETWORKS,
            property_names=SHORTCUTS,
            means=MEANS,
        )
        path = _write(workspace, page, facts, measured, quarantined)
        advance(1)
    return path


def card_of(workspace: Workspace, run: RetrainRun, metrics: Mapping[str, Any]) -> str:
    """The model card of a run, with the protocols of its cache; the cache itself is not needed.

    run, metrics: its own, perhaps without what others must not see.
    """
    shown = dict.fromkeys(_OPTIONAL) | dict(metrics)
    clips, _ = read_evaluation(workspace.evaluate)
    protocols = [protocol for protocol in _protocols(workspace) if protocol["cache"] == run.cache]
    measured = _measured(workspace, shown, run, protocols)
    return model_card(
        {
            **measured,
            "metrics": shown,
            "parameters": _yaml(run.params),
            "people": people_counts(workspace, set(clips["clip_id"])),
            "versions": versions(),
            "digests": digests(workspace, run, run.cache),
            "commands": commands(measured["protocols"], robustness=bool(measured["robustness"]), oracle=False),
        }
    )


def _facts(
    workspace: Workspace, params: Params, cache: FeatureCache, search: SearchRun, retrain: RetrainRun
) -> dict[str, Any]:
    """What the page says of the run itself, its data and its making."""
    index, identity = clip_index(workspace, cache), cache_identity(cache)
    return {
        "params": retrain.params,
        "parameters": _yaml(retrain.params),
        "changed": changed(retrain.params, params.model_dump(mode="json")),
        "features": _yaml(cache.attributes),
        "trimmed": bool(cache.attributes["params"]["windows"]["trim_silence"]),
        "data": data_counts(index, window_s=float(cache.attributes["params"]["windows"]["window_s"])),
        "assumed": LAYOUTS[retrain.params["data"]["layout"]].assumed,
        "people": people_counts(workspace, set(index["clip_id"])),
        "failed": [(stage, run) for stage, of in (("search", search), ("training", retrain)) for run in of.failed],
        "oracle": _oracle(workspace),
        "elsewhere": made_elsewhere(workspace, identity),
        "digests": digests(workspace, retrain, identity),
        "versions": versions(),
    }


def _write(
    workspace: Workspace,
    page: str,
    facts: Mapping[str, Any],
    measured: Mapping[str, Any],
    quarantined: list[Quarantined],
) -> Path:
    """The path of the page, with all that lies beside it."""
    folder = workspace.report
    protocols = {protocol["name"]: protocol for protocol in measured["protocols"]}
    write_quarantine(folder / "quarantine.csv", quarantined)
    names = [(workspace.evaluate / name, folder / name) for name in _COPIED]
    shutil.rmtree(folder / "protocols", ignore_errors=True)
    for name in protocols:
        each = [workspace.protocols / name / file for file in ("protocol.json", "scores.csv")]
        names += [(path, folder / "protocols" / name / path.name) for path in each]
    for source, target in names:
        if source.exists():
            with replacing(target) as temporary:
                shutil.copyfile(source, temporary)
    told = {name: facts[name] for name in _TOLD}
    write_json(folder / "report.json", {"schema_version": 1, **told, "protocols": protocols})
    write_text(folder / "model-card.md", model_card({**facts, **measured}))
    write_text(folder / "data-card.md", data_card({**facts, **measured}))
    path = folder / "report.html"
    write_text(path, page)
    return path


def _protocols(workspace: Workspace) -> list[dict[str, Any]]:
    found = verdict.protocols_in(workspace.protocols)
    for protocol in found:  # no page stands on a damaged table
        read_protocol_scores(workspace.protocols / protocol["name"] / "scores.csv")
    return found


def _measured(
    workspace: Workspace, metrics: dict[str, Any], run: RetrainRun, protocols: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What the sections show of metrics.json and of the protocols."""
    unseen = verdict.unseen(protocols)
    limits = (metrics["calibration"] or {}).get("limits")
    return {
        "protocols": protocols,
        "unseen": unseen,
        "verdict": verdict.verdict(metrics, unseen),
        "warnings": [*said_first(Params.model_validate(run.params).data.layout, limits), *warnings(metrics)],
        "comparisons": sections.comparisons(metrics),
        "methods": sections.breakdown(metrics, "per_method"),
        "categories": sections.breakdown(metrics, "per_category"),
        "groups": sections.breakdown(metrics, "per_group"),
        "sources": sections.breakdown(metrics, "per_source"),
        "tables": {level: sections.metric_table(metrics, level) for level in ("clip", "window")},
        "evidence": sections.evidence(metrics),
        "localisation": sections.localisation(metrics),
        "robustness": sections.robustness(workspace),
    }


def _elsewhere(results: Sequence[str]) -> list[str]:
    if not results:
        return []
    return [
        "Made on another cache than work/features.zarr holds now, and no longer true of it: the results of "
        f"{', '.join(results)}. Run these commands again."
    ]


def _errors(workspace: Workspace, metrics: Mapping[str, Any], *, faces: bool) -> dict[str, Any]:
    clips, scores = read_evaluation(workspace.evaluate)
    threshold = metrics["systems"].get(FUSION, {}).get("threshold")
    errors = worst_errors(scores, clips, threshold)
    without = "Faces and spectrograms were left out of this page on purpose."
    shown = add_pictures(errors, workspace) if faces else without
    return {"errors": errors, "threshold": threshold, "faces": shown}


def _curves(workspace: Workspace) -> dict[str, pd.DataFrame]:
    return {name: read_table(workspace.evaluate / f"{name}.csv") for name in ("roc", "det")}


def _oracle(workspace: Workspace) -> dict[str, Any] | None:
    """The oracle's table with its figure; None where `bmnas oracle` did not run."""
    path = workspace.oracle / "oracle.json"
    if not path.exists():
        return None
    table = read_oracle(path)
    svg = Markup(oracle_svg(table)) if table.picks else None  # noqa: S704 - matplotlib escapes its texts
    return {"table": table, "svg": svg}


def _yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False, allow_unicode=True)


def _architectures(search: SearchRun, layers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Per network, seed and member: the genotype in words and, for the fusion network, drawn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NETWORKS}
    for entry, place, member in ((e, i, member) for e in search.entries for i, member in enumerate(e.members, 1)):
        genotype = nas.Genotype.model_validate(member.genotype)
        svg = Markup(genotype_svg(genotype, layers)) if entry.network == FUSION else None  # noqa: S704 - it escapes
        name = f"seed {entry.seed}" + (f", member {place}" if len(entry.members) > 1 else "")
        found[entry.network].append({"name": name, "words": describe(genotype), "svg": svg})
    return found


def _plots(search: SearchRun, retrain: RetrainRun) -> dict[str, Markup]:
    searched = [{"network": e.network, "curves": e.curves, "best_epoch": None} for e in search.entries]
    trained = [{"network": e.network, "curves": e.curves, "best_epoch": e.best_epoch} for e in retrain.entries]
    preferences = [e.probabilities for e in search.entries if e.network == FUSION and e.probabilities]
    drawn = {
        "search": curves_svg(searched, "search"),
        "retrain": curves_svg(trained, "retrain"),
        "probabilities": probabilities_svg(preferences) if preferences else "",
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes its texts


def _histories(search: SearchRun) -> list[dict[str, Any]]:
    """How the choices of every fusion search moved: {seed, svg}."""
    entries = [entry for entry in search.entries if entry.network == FUSION and entry.history]
    return [
        {"seed": entry.seed, "svg": Markup(history_svg(entry.history, f"history{entry.seed}"))}  # noqa: S704 - as above
        for entry in entries
    ]
