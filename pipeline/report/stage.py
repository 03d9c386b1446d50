"""The report stage: one HTML file that holds everything, asks nothing of the network and runs no script.

Names of files and reasons come from outside: the template escapes them, and the page's own policy forbids scripts.
The same results give the same bytes.
"""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml
from markupsafe import Markup

import nas
from cache_schemas.features import FeatureCache
from cache_schemas.files import write_text
from cache_schemas.manifest import (
    SPLITS,
    Quarantined,
    find_leaks,
    read_manifest,
    read_quarantine,
    read_unused,
    write_quarantine,
)
from cache_schemas.oracle import read_oracle
from cache_schemas.run import NETWORKS, RetrainRun, SearchRun, read_run
from cache_schemas.tables import read_table
from pipeline import figures
from pipeline.figures.curves import curves_svg, det_svg, history_svg, probabilities_svg, roc_svg
from pipeline.figures.experiments import oracle_svg
from pipeline.figures.genotype import describe, genotype_svg
from pipeline.params import Params
from pipeline.runs.cache import cache_identity, clip_index
from pipeline.runs.evaluate import read_metrics
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.statistics.tables import clips
from pipeline.workspace import Workspace

QUARANTINE_STAGES = ("manifest", "spectrograms", "faces", "features")
PACKAGES = ("bmnas", "torch", "torchvision", "timm", "facenet-pytorch", "numpy", "pandas", "scikit-learn", "zarr")

MAX_QUARANTINE_ROWS = 2000  # more rows than this stay in quarantine.csv: a page of a million rows opens in no browser


def build_report(workspace: Workspace, params: Params) -> Path:
    """The path of report.html, written anew from what the other stages left, with quarantine.csv beside it."""
    metrics = read_metrics(workspace)
    search = read_run(workspace.search / "search.json", SearchRun)
    retrain = read_run(workspace.retrain / "retrain.json", RetrainRun)
    cache = FeatureCache.open(workspace.features)
    index = clip_index(workspace, cache)
    quarantined = [row for stage in QUARANTINE_STAGES for row in read_quarantine(workspace.quarantine(stage))]
    page = render(
        metrics=metrics,
        parameters=_yaml(retrain.params),
        changed=_changed(retrain.params, params.model_dump(mode="json")),
        features=_yaml(cache.attributes),
        data=data_counts(index),
        people=people_counts(workspace, set(index["clip_id"])),
        quarantine=quarantine_summary(quarantined),
        architectures=_architectures(search, list(cache.layers)),
        plots=_plots(workspace, metrics, search, retrain),
        histories=_histories(search),
        failed=[(stage, run) for stage, of in (("search", search), ("training", retrain)) for run in of.failed],
        oracle=_oracle(workspace),
        elsewhere=made_elsewhere(workspace, cache_identity(cache)),
        trimmed=bool(cache.attributes["params"]["windows"]["trim_silence"]),
        versions=versions(),
    )
    write_quarantine(workspace.report / "quarantine.csv", quarantined)
    path = workspace.report / "report.html"
    write_text(path, page)
    return path


def render(**content: Any) -> str:
    """The page; every text in `content` is escaped unless it is Markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(figures.__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"spread": spread, "interval": interval, "number": number, "percent": percent}
    return environment.get_template("report.html.j2").render(
        content | {"networks": NETWORKS, "property_names": SHORTCUTS}
    )


def number(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "—" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal, or a dash."""
    return "—" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def spread(value: Mapping[str, Any], as_percent: bool = False) -> Markup:
    """A value; an undefined one as a dash that tells its reason."""
    if value["value"] is None:
        return Markup('<span class="undefined" title="{0}">— <small>{0}</small></span>').format(value["reason"])
    return Markup("{}").format(percent(value["value"]) if as_percent else number(value["value"]))


def interval(value: Mapping[str, Any]) -> Markup:
    """A bootstrap interval as "low to high", or the reason why there is none."""
    if value["low"] is None:
        return Markup('<span class="undefined">— <small>{}</small></span>').format(value["reason"])
    return Markup("{} to {}").format(number(value["low"]), number(value["high"]))


def data_counts(index: pd.DataFrame) -> dict[str, Any]:
    """Clips per split and category, and clips, windows and subjects per split.

    index: as `pipeline.runs.cache.clip_index` gives it.
    """
    table = clips(index)
    categories = sorted(str(name) for name in table["category"].unique())
    rows = []
    for split in SPLITS:
        part = table[table["split"] == split]
        counts = Counter(str(name) for name in part["category"])
        rows.append(
            {
                "split": split,
                "categories": [counts[name] for name in categories],
                "clips": len(part),
                "windows": int((index["split"] == split).sum()),
                "subjects": int(part["subject_id"].nunique()),
            }
        )
    return {"categories": categories, "rows": rows}


def people_counts(workspace: Workspace, used: Collection[str]) -> dict[str, int]:
    """How many people are in two splits, of them as donors only, in clips that are used; and clips in no split."""
    leaks = find_leaks(clip for clip in read_manifest(workspace.manifest) if clip.clip_id in used)
    donors = sum(leak.donor_only for leak in leaks)
    return {"shared": len(leaks), "donors": donors, "unused": len(read_unused(workspace.unused))}


def quarantine_summary(rows: Sequence[Quarantined]) -> dict[str, Any]:
    """{total, reasons: [(stage, reason, clips)] the most frequent first, rows: at most MAX_QUARANTINE_ROWS}."""
    counts = Counter((row.stage, row.reason) for row in rows)
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return {
        "total": len(rows),
        "reasons": [(stage, reason, count) for (stage, reason), count in ordered[:MAX_QUARANTINE_ROWS]],
        "rows": sorted(rows, key=lambda row: (row.path, row.clip_id, row.stage))[:MAX_QUARANTINE_ROWS],
    }


def versions() -> dict[str, str]:
    """Python's and each package's version, "-" where it is not installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def made_elsewhere(workspace: Workspace, identity: str) -> list[str]:
    """The commands whose results, as they lie in the workspace, were made on another cache than that of this identity.

    Results that do not say on which one are not among them.
    """
    files = {
        "search": workspace.search / "search.json",
        "retrain": workspace.retrain / "retrain.json",
        "evaluate": workspace.evaluate / "metrics.json",
        "oracle": workspace.oracle / "oracle.json",
        "sweep": workspace.sweep / "sweep.csv",
        "baselines": workspace.baselines / "baselines.csv",
    }
    return [name for name, file in files.items() if file.exists() and _made_on(file) - {"", identity}]


def _made_on(file: Path) -> set[str]:
    """The caches that a result says it is of: its field or column `cache`."""
    if file.suffix == ".json":
        return {str(json.loads(file.read_text(encoding="utf-8")).get("cache", ""))}
    return set(pd.read_csv(file, usecols=lambda name: name == "cache", dtype=str).fillna("").to_numpy().ravel())


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


def _changed(used: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The sections of params.yaml that no longer say what this run used; `compute` never matters."""
    return sorted(key for key in used.keys() | now.keys() if key != "compute" and used.get(key) != now.get(key))


def _architectures(search: SearchRun, layers: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Per network and seed: the genotype in words and, for the fusion network, drawn."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in NETWORKS}
    for entry in search.entries:
        genotype = nas.Genotype.model_validate(entry.genotype)
        svg = Markup(genotype_svg(genotype, layers)) if entry.network == "fusion" else None  # noqa: S704 - it escapes
        found[entry.network].append({"seed": entry.seed, "words": describe(genotype), "svg": svg})
    return found


def _plots(
    workspace: Workspace, metrics: Mapping[str, Any], search: SearchRun, retrain: RetrainRun
) -> dict[str, Markup]:
    legends: dict[str, str] = {
        name: f"{name}, AUC {number(metrics['systems'][name]['clip']['auc']['value'])}"
        for name in NETWORKS
        if name in metrics["systems"]
    }
    searched = [{"network": e.network, "curves": e.curves, "best_epoch": None} for e in search.entries]
    trained = [{"network": e.network, "curves": e.curves, "best_epoch": e.best_epoch} for e in retrain.entries]
    preferences = [e.probabilities for e in search.entries if e.network == "fusion" and e.probabilities]
    drawn = {
        "roc": roc_svg(read_table(workspace.evaluate / "roc.csv"), legends),
        "det": det_svg(read_table(workspace.evaluate / "det.csv"), legends),
        "search": curves_svg(searched, "search"),
        "retrain": curves_svg(trained, "retrain"),
        "probabilities": probabilities_svg(preferences) if preferences else "",
    }
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 - matplotlib escapes its texts


def _histories(search: SearchRun) -> list[dict[str, Any]]:
    """How the choices of every fusion search moved: {seed, svg}."""
    entries = [entry for entry in search.entries if entry.network == "fusion" and entry.history]
    return [
        {"seed": entry.seed, "svg": Markup(history_svg(entry.history, f"history{entry.seed}"))}  # noqa: S704 - as above
        for entry in entries
    ]
