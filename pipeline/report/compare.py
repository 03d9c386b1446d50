"""Command `compare`: several runs on the clips that all of them tested, paired, as a page and as JSON.

A run is a workspace, or the folder of its report: both hold metrics.json and scores.csv.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.evaluation import read_evaluation
from cache_schemas.files import write_json, write_text
from cache_schemas.metrics import read_metrics
from cache_schemas.run import read_json
from pipeline.figures.charts import Axis, forest
from pipeline.figures.vega import chart
from pipeline.report.drawings import forest_row, said
from pipeline.report.page import render
from pipeline.report.sections import difference
from pipeline.report.verdict import protocols_in, unseen
from pipeline.statistics.compare import delong, paired, with_holm
from pipeline.statistics.metrics import UndefinedMetricError, two_classes
from pipeline.statistics.systems import FUSION
from pipeline.statistics.tables import clips
from pipeline.statistics.values import measured, people_drawn

CONTENTS = {"verdict": "Which is better", "pairs": "Pair by pair", "unseen": "Unseen", "parameters": "What differs"}


class CompareError(ValueError):
    """The runs cannot be compared; the message says why, and what to do."""


@dataclass(frozen=True)
class Run:
    """One run: `scores` has a row a test clip: label, person and score, the searched network's mean."""

    name: str
    metrics: Mapping[str, Any]
    scores: pd.DataFrame
    protocols: Sequence[dict[str, Any]]
    parameters: Mapping[str, Any]


def read(folder: Path) -> Run:
    """The run of a workspace or of a report's folder; raises EvaluationError where it was not evaluated."""
    inside = folder / "evaluate" if (folder / "evaluate").is_dir() else folder
    metrics = read_metrics(inside)
    _, rows = read_evaluation(inside)
    mine = rows[(rows["system"] == FUSION) & (rows["split"] == "test")]
    about = clips(mine).sort_index()
    scores = about[["label"]].assign(person=about["subject_id"], score=mine.groupby("clip_id")["score"].mean())
    files = (path for path in (folder / "report.json", folder / "retrain" / "retrain.json") if path.exists())
    told = next((read_json(path, "report") for path in files), {})
    return Run(str(folder), metrics, scores, protocols_in(folder / "protocols"), told.get("params", {}))


def compare(runs: Sequence[Run], *, seed: int = 0) -> dict[str, Any]:
    """{clips, people, runs: [{name, own, auc, eer}], pairs: [...]}: values on the test clips that all runs share.

    pairs: the first's AUC less the second's, in the same draws of people, with DeLong's p, which takes clips for
    independent, beside that of the draws, Holm-adjusted over all pairs; null where people are too few. Raises
    CompareError where the runs share too few clips.
    """
    shared = sorted(set.intersection(*(set(run.scores.index) for run in runs)))
    tables = [run.scores.loc[shared] for run in runs]
    labels = tables[0]["label"].to_numpy()
    other = next((run.name for run, of in zip(runs, tables, strict=True) if (of["label"] != labels).any()), None)
    if other is not None:
        raise CompareError(f"{runs[0].name} and {other} do not agree which clips are fake: list the clips anew in one")
    try:
        two_classes(labels, labels)
    except UndefinedMetricError as error:
        raise CompareError(
            f"the runs share {len(shared)} test clips: {error}: compare runs of the same clips"
        ) from None
    draws = people_drawn(tables[0]["person"], seed=seed)
    measures = [measured(labels, of["score"].to_numpy(), "", draws, ("auc", "eer")) for of in tables]
    pairs = []
    for i, j in combinations(range(len(runs)), 2):
        (first, of_first), (second, of_second) = measures[i], measures[j]
        row = paired(first["auc"]["value"] - second["auc"]["value"], of_first["auc"], of_second["auc"])
        scores = (tables[of]["score"] for of in (i, j))
        p_delong = None if row["p"] is None else delong(labels, *scores).p
        pairs.append({"first": runs[i].name, "second": runs[j].name, **row, "p_delong": p_delong})
    own = [run.metrics["headline"] for run in runs]
    found = [
        {"name": run.name, "own": head, **values} for run, head, (values, _) in zip(runs, own, measures, strict=True)
    ]
    counts = {"clips": len(shared), "fake_clips": int(labels.sum()), "people": int(tables[0]["person"].nunique())}
    return {"schema_version": 1, **counts, "runs": found, "pairs": with_holm(pairs)}


def verdict(found: Mapping[str, Any]) -> str:
    """One sentence: which run is better than which, as far as chance allows to say."""
    apart = [row for row in found["pairs"] if row["p_holm"] is not None and row["p_holm"] < 0.05]
    held = f"On the {found['clips']} test clips of {found['people']} people that all runs share"
    reasons = [row["reason"] for row in found["pairs"] if row["p_holm"] is None]
    if reasons:
        return f"{held}, none can be called better than another; {reasons[0]}."
    if not apart:
        return f"{held}, no run's AUC is better than another's beyond what chance makes."
    better = [
        (row["first"], row["second"]) if row["difference"] > 0 else (row["second"], row["first"]) for row in apart
    ]
    return f"{held}, " + "; ".join(f"{first} is better than {second}" for first, second in better) + "."


def differing(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """(parameter, its value in each run) of those that are not the same in all; "—": not said."""
    flat = [_flat(run.parameters) for run in runs]
    names = sorted(set().union(*flat))
    rows = [(name, [of.get(name, "—") for of in flat]) for name in names if not name.startswith("compute.")]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in parameters.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": str(value)}
    return found


def write_comparison(folders: Sequence[Path], out: Path, *, seed: int = 0) -> dict[str, Any]:
    """What `compare` finds of these runs; writes it to `out`, a page, and as JSON beside it."""
    if len({folder.resolve() for folder in folders}) < max(2, len(folders)):
        raise CompareError(f"{', '.join(map(str, folders))}: give two or more runs, each once")
    runs = [read(folder) for folder in folders]
    found = compare(runs, seed=seed)
    values = [forest_row(run["name"], run["auc"]) for run in found["runs"]]
    pairs = [
        forest_row(f"{row['first']} less {row['second']}", {**row, "value": row["difference"]})
        for row in found["pairs"]
    ]
    reach = max(0.05, *(abs(row[end]) for row in pairs for end in ("low", "high")))
    lowest = min(0.5, *(row["low"] for row in values))
    charts = {
        "runs": chart(
            "runs", "AUC of each run", said(values), forest(values, axis=Axis("clip AUC", (lowest, 1.0)), at=0.5)
        ),
        "pairs": chart(
            "pairs",
            "Differences of AUC",
            said(pairs),
            forest(pairs, axis=Axis("difference of AUC", (-reach, reach)), at=0),
        ),
    }
    page = render(
        "compare.html.j2",
        found=found,
        verdict=verdict(found),
        charts=charts,
        names=[run.name for run in runs],
        differences=[difference(row) for row in found["pairs"]],
        unseen=list(zip(*(unseen(run.protocols) for run in runs), strict=True)),
        parameters=differing(runs),
        contents=list(CONTENTS.items()),
    )
    write_json(out.with_suffix(".json"), found)
    write_text(out, page)
    return found
