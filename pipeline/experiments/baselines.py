"""Command `baselines`: everything that a searched network has to beat, on the same cache, splits and seeds.

work/baselines/baselines.csv    one row a method, the best clip AUC on the test split first
work/baselines/baselines.json   the same in full: per category, per method of forgery, per seed
work/baselines/baselines.svg    AUC with its interval over subjects
work/baselines/folds.*          the same three with folds: every clip scored by networks that have not seen its people
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

import nas
from cache_schemas.files import digest, write_json, write_text
from cache_schemas.manifest import read_manifest
from cache_schemas.runs import FinishedRuns, ScoredRow
from cache_schemas.tables import write_table
from nas.baselines import train_design
from pipeline.experiments.methods import Floats, methods, plain
from pipeline.experiments.probes import probes, stacked
from pipeline.figures.experiments import baselines_svg, standalone
from pipeline.manifest.splits import deal_folds
from pipeline.params import Params
from pipeline.runs.cache import Source, Windows, clip_index, open_cache
from pipeline.runs.evaluate import score_table
from pipeline.runs.jobs import Batch, Job, JobError, do
from pipeline.runs.keys import code_version
from pipeline.statistics.measure import measure_network
from pipeline.workspace import Workspace

Split = tuple[str, ...]
"""(N,) train, val or test"""


MethodRun = tuple[str, int, int]
"""A method's name, which of the splits, and a seed."""


def run_baselines(workspace: Workspace, params: Params, folds: int = 0) -> pd.DataFrame:
    """One row a method; finished methods are not done again.

    folds: 0: the cache's own split; else so many splits by people, in which every clip is in the test split once. All
    clips are then measured together, each by the scores of the networks that were neither trained nor chosen on its
    people.
    """
    source = Source.of(workspace, params)
    windows, index = source.windows(), clip_index(workspace, open_cache(workspace, params))
    splits = fold_splits(workspace, index, folds, params.seed) if folds else [tuple(windows.split)]
    by_method: dict[str, list[tuple[Split, ScoredRow]]] = {}
    for split, of_split in zip(splits, _run_methods(source, splits), strict=True):
        joined = late_fusion(of_split, replace(windows, split=list(split)))
        for name, rows in (of_split | joined).items():
            by_method.setdefault(name, []).extend((split, row) for row in rows)
    results = {name: _measured(index, scored, params.seed) for name, scored in by_method.items()}
    stem = "folds" if folds else "baselines"
    write_json(workspace.baselines / f"{stem}.json", {"cache": source.identity, "methods": results})
    table = summary(results).assign(cache=source.identity)
    write_table(workspace.baselines / f"{stem}.csv", table)
    write_text(workspace.baselines / f"{stem}.svg", standalone(baselines_svg(table)))
    return table


def fold_splits(workspace: Workspace, index: pd.DataFrame, folds: int, seed: int) -> list[Split]:
    """One split per fold: it is the test split, the next one the val split. index: FeatureCache.index."""
    used = set(index["clip_id"])
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in used]
    fold = index["clip_id"].map(deal_folds(clips, folds, seed=seed)).to_numpy()
    names = {0: "test", 1: "val"}
    return [tuple(names.get((f - k) % folds, "train") for f in fold) for k in range(folds)]


def _run_methods(source: Source, splits: Sequence[Split]) -> list[dict[str, list[ScoredRow]]]:
    """Per split, the rows of every method, in the order of `methods`."""
    params, known = source.params, methods(source.windows(), source.params)
    code = code_version(nas.search, nas.retrain, train_design, methods, *probes.values())
    named = [digest(split) for split in splits]
    seeds = {name: params.seeds if method.random else (0,) for name, method in known.items()}
    job = Job(
        "baselines",
        source,
        [(name, place, seed) for place in range(len(splits)) for name in known for seed in seeds[name]],
        lambda run: ["baseline", code, known[run[0]].settings, run[0], named[run[1]], run[2]],
        partial(run_method, splits=tuple(splits)),
        lambda run: run[:2],
        FinishedRuns(Workspace(source.work).runs / "baselines", ScoredRow),
    )
    rows = do(job)
    return [{name: [rows[name, place, s] for s in seeds[name]] for name in known} for place in range(len(splits))]


def run_method(source: Source, batch: Batch[MethodRun], splits: Sequence[Split]) -> list[ScoredRow]:
    """One row per seed of a method."""
    (name, place, _), seeds = batch.runs[0], [seed for *_, seed in batch.runs]
    windows = replace(source.windows(), split=list(splits[place]))
    outcomes = methods(windows, source.params)[name].run(windows, seeds)
    return [
        ScoredRow(method=name, seed=s, failed=o.failed, parameters=o.parameters, scores=o.scores.tolist())
        for s, o in zip(seeds, outcomes, strict=True)
    ]


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


def _measured(index: pd.DataFrame, scored: Sequence[tuple[Split, ScoredRow]], seed: int) -> dict[str, Any]:
    """One method's entry of baselines.json. A seed that failed on one split is left out on all."""
    failed = {row.seed: row.failed for _, row in scored if row.failed}
    tables = []
    for split, row in scored:
        if row.seed not in failed:
            test = np.array(split) == "test"
            tables.append(score_table(index[test], row.method, row.seed, np.array(row.scores)[test]))
    found = {"parameters": max(row.parameters for _, row in scored), "failed": failed}
    return (measure_network(pd.concat(tables, ignore_index=True), seed) if tables else {}) | found


def summary(results: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """One row a method, the best first: clip level, mean and deviation over seeds, 95 % intervals over subjects.

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
            clip = result["clip"]
            row |= {"auc": clip["auc"]["mean"], "auc_std": clip["auc"]["std"]}
            row |= {f"auc_{end}": clip["auc_interval"][end] for end in ("low", "high")}
            row |= {metric: clip[metric]["mean"] for metric in ("eer", "average_precision", "balanced_accuracy")}
            for category, of in result["per_category"].items():
                row |= {f"auc_{category}": of["auc"]["mean"]}
                row |= {f"auc_{category}_{end}": of["auc_interval"][end] for end in ("low", "high")}
        rows.append(row | {"failed": "; ".join(dict.fromkeys(result["failed"].values()))})
    if not any(row["seeds"] for row in rows):
        raise JobError(f"baselines: every method failed; the first one: {rows[0]['failed']}")
    return pd.DataFrame(rows).sort_values(["auc", "method"], ascending=[False, True], ignore_index=True)
