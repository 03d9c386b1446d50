"""Command `baselines`: everything that a searched network has to beat, on the same cache, splits and seeds.

work/baselines/baselines.csv    one row a method, the best clip AUC on the test split first
work/baselines/baselines.json   the same in full: per category, per method of forgery, per seed
work/baselines/baselines.svg    AUC with its interval over subjects
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.evaluation import SCORES
from cache_schemas.files import write_json, write_text
from cache_schemas.runs import ScoredRow
from cache_schemas.tables import write_table
from pipeline.controls.probes import stacked
from pipeline.experiments.methods import Floats, plain
from pipeline.experiments.scored import run_methods
from pipeline.figures.experiments import baselines_svg, standalone
from pipeline.params import Params
from pipeline.runs.cache import Source, Windows, clip_index, open_cache
from pipeline.runs.evaluate import clip_table, score_table, with_ends
from pipeline.runs.jobs import JobError
from pipeline.statistics.measure import measure_systems
from pipeline.workspace import Workspace


def run_baselines(workspace: Workspace, params: Params) -> pd.DataFrame:
    """One row a method, on the cache's own split; finished methods are not done again."""
    source, cache = Source.of(workspace, params), open_cache(workspace, params)
    windows, index = source.windows(), clip_index(workspace, cache)
    (rows,) = run_methods("baselines", source, [tuple(windows.split)])
    rows |= late_fusion(rows, windows)
    scores = _scores(with_ends(index, cache), rows)
    measured = measure_systems(clip_table(workspace, index), scores, seed=params.seed)
    results = {
        name: measured.get(name, {})
        | {
            "parameters": max(row.parameters for row in of_method),
            "failed": {row.seed: row.failed for row in of_method if row.failed},
        }
        for name, of_method in rows.items()
    }
    write_json(workspace.baselines / "baselines.json", {"cache": source.identity, "methods": results})
    table = summary(results).assign(cache=source.identity)
    write_table(workspace.baselines / "baselines.csv", table)
    write_text(workspace.baselines / "baselines.svg", standalone(baselines_svg(table)))
    return table


def late_fusion(rows: Mapping[str, Sequence[ScoredRow]], windows: Windows) -> dict[str, list[ScoredRow]]:
    """The two unimodal MLPs of each seed joined by their scores: mean, product, logistic regression fitted on val.

    Of a window without sound it is the picture's score.
    """
    heard = np.any([(x != 0).flatten(1).any(1).cpu() for x in plain(windows, "audio").values()], axis=0)
    pairs = list(zip(rows["visual only, MLP"], rows["audio only, MLP"], strict=True))
    rules: dict[str, Callable[[Floats, Floats], Floats]] = {
        "late fusion, mean": lambda v, a: (v + a) / 2,
        "late fusion, product": lambda v, a: v * a / (v * a + (1 - v) * (1 - a)),
        "late fusion, logistic regression": lambda v, a: stacked([v, a], windows.labels, windows.split),
    }
    return {
        name: [
            ScoredRow(
                method=name,
                seed=v.seed,
                failed=v.failed or a.failed,
                parameters=v.parameters + a.parameters,
                scores=[] if v.failed or a.failed else np.where(heard, rule(*map(_inside, (v, a))), v.scores).tolist(),
            )
            for v, a in pairs
        ]
        for name, rule in rules.items()
    }


def _inside(row: ScoredRow) -> Floats:
    """The scores, none of them 0 or 1."""
    return np.clip(row.scores, 1e-9, 1 - 1e-9)


def _scores(windows: pd.DataFrame, rows: Mapping[str, Sequence[ScoredRow]]) -> pd.DataFrame:
    """The rows of scores.csv of all runs that are well; windows: all, of which val and test are measured."""
    used = windows["split"].isin(["val", "test"]).to_numpy()
    tables = [
        score_table(windows[used], row.method, row.seed, np.array(row.scores)[used])
        for of_method in rows.values()
        for row in of_method
        if not row.failed
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(SCORES))


def summary(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a method, the best first: clip level, of the seeds' mean score, 95 % intervals over people.

    auc_one, auc_std: of one seed's networks, mean and deviation.

    What failed with every seed is last, without numbers.
    """
    rows = []
    for name, result in results.items():
        row: dict[str, Any] = {
            "method": name,
            "seeds": len(result.get("seeds", ())),
            "parameters": result["parameters"],
        }
        if row["seeds"]:
            row |= _value("auc", result["clip"]["auc"])
            row |= {f"auc_{key}": result["one_network"]["auc"][of] for key, of in (("one", "mean"), ("std", "std"))}
            row |= {name: result["clip"][name]["value"] for name in ("eer", "average_precision", "balanced_accuracy")}
            for category, of in result["per_category"].items():
                row |= _value(f"auc_{category}", of["auc"])
        rows.append(row | {"failed": "; ".join(dict.fromkeys(result["failed"].values()))})
    if not any(row["seeds"] for row in rows):
        raise JobError(f"baselines: every method failed; the first one: {rows[0]['failed']}")
    return pd.DataFrame(rows).sort_values(["auc", "method"], ascending=[False, True], ignore_index=True)


def _value(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value["value"]} | {f"{name}_{end}": value[end] for end in ("low", "high")}
