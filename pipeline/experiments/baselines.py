"""Command `baselines`: everything that a searched network has to beat, on the same cache, splits and seeds.

work/baselines/baselines.csv    one row a method, the best clip AUC on the test split first
work/baselines/baselines.json   the same in full: per category, per method of forgery, per seed
work/baselines/baselines.svg    AUC with its interval over subjects
work/baselines/folds.*          the same three with folds: every clip scored by networks that have not seen its people
work/baselines/runs/            finished methods (cache_schemas.runs)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import nas
from cache_schemas.files import digest, write_json, write_text
from cache_schemas.manifest import read_manifest
from cache_schemas.runs import FinishedRuns, RunRow
from nas.baselines import DESIGNS, fixed_genotypes, train_design
from nas.enumeration import Space
from pipeline.experiments.probes import probe_sets, probes, stacked
from pipeline.figures.experiments import baselines_svg, standalone
from pipeline.manifest.splits import deal_folds
from pipeline.params import Params
from pipeline.runs.cache import Source, Windows, open_cache
from pipeline.runs.evaluate import score_table
from pipeline.runs.jobs import run_batches
from pipeline.statistics.measure import measure_network
from pipeline.workspace import Workspace

RANDOM_ARCHITECTURES = 8
"""Trained by random search, which keeps the best on val: about what a search and one training cost."""

Floats = NDArray[np.float64]
Split = tuple[str, ...]
"""(N,) train, val or test"""


class ScoredRow(RunRow):
    """One method's network of one seed; scores: P(fake) of every window (N,), in the cache's order."""

    method: str
    seed: int
    parameters: int
    scores: list[float]


@dataclass(frozen=True)
class Method:
    """A way to scores. run gives (scores, parameters) per seed; random: whether they depend on the seed."""

    name: str
    run: Callable[[Windows, Params, Sequence[int]], list[tuple[Floats, int]]]
    random: bool = True


@dataclass(frozen=True)
class MethodBatch:
    """One method on one split, all its seeds."""

    source: Source
    keys: tuple[str, ...]
    method: str
    split: Split
    seeds: tuple[int, ...]


def run_baselines(workspace: Workspace, params: Params, folds: int = 0) -> pd.DataFrame:
    """One row a method; finished methods are not done again.

    folds: 0: the cache's own split; else so many splits by people, in which every clip is in the test split once. All
    clips are then measured together, each by the scores of the networks that were neither trained nor chosen on its
    people.
    """
    source = Source(workspace.root, params)
    windows, index = source.windows(), open_cache(workspace, params).index
    splits = fold_splits(workspace, index, folds, params.seed) if folds else [tuple(windows.split)]
    finished = FinishedRuns(workspace.baselines / "runs", ScoredRow)
    by_method: dict[str, list[tuple[Split, ScoredRow]]] = {}
    for split, of_split in zip(splits, _run_methods(source, splits, finished), strict=True):
        joined = late_fusion(of_split, replace(windows, split=list(split)))
        for name, rows in (of_split | joined).items():
            by_method.setdefault(name, []).extend((split, row) for row in rows)
    results = {name: _measured(index, scored, params.seed) for name, scored in by_method.items()}
    table = summary(results, {name: scored[0][1].parameters for name, scored in by_method.items()})
    stem = "folds" if folds else "baselines"
    write_json(workspace.baselines / f"{stem}.json", results)
    write_text(workspace.baselines / f"{stem}.csv", table.to_csv(index=False))
    write_text(workspace.baselines / f"{stem}.svg", standalone(baselines_svg(table)))
    return table


def fold_splits(workspace: Workspace, index: pd.DataFrame, folds: int, seed: int) -> list[Split]:
    """One split per fold: it is the test split, the next one the val split. index: FeatureCache.index."""
    used = set(index["clip_id"])
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in used]
    fold = index["clip_id"].map(deal_folds(clips, folds, seed=seed)).to_numpy()
    names = {0: "test", 1: "val"}
    return [tuple(names.get((f - k) % folds, "train") for f in fold) for k in range(folds)]


def _run_methods(
    source: Source, splits: Sequence[Split], finished: FinishedRuns[ScoredRow]
) -> list[dict[str, list[ScoredRow]]]:
    """Per split, the rows of every method, in the order of `methods`."""
    params, identity = source.params, source.identity()
    settings = {
        name: getattr(params, name).model_dump(mode="json", exclude={"device"}) for name in ("search", "retrain")
    }
    done = finished.read()
    batches: list[MethodBatch] = []
    order: list[dict[str, tuple[str, ...]]] = [{} for _ in splits]
    for method, (split, keys_of) in product(
        methods(source.windows(), params).values(), zip(splits, order, strict=True)
    ):
        seeds = tuple(params.seeds) if method.random else (0,)
        keys = tuple(digest("baseline", identity, settings, digest(split), method.name, seed) for seed in seeds)
        keys_of[method.name] = keys
        if not all(key in done for key in keys):
            batches.append(MethodBatch(source, keys, method.name, split, seeds))
    kept = sum(key in done for keys_of in order for keys in keys_of.values() for key in keys)
    rows = run_batches("baselines", batches, run_method, finished, params.compute, kept=kept)
    return [{name: [rows[key] for key in keys] for name, keys in keys_of.items()} for keys_of in order]


def run_method(batch: MethodBatch) -> list[ScoredRow]:
    """One row per seed."""
    windows, params = replace(batch.source.windows(), split=list(batch.split)), batch.source.params
    outcome = methods(windows, params)[batch.method].run(windows, params, batch.seeds)
    return [
        ScoredRow(method=batch.method, seed=seed, parameters=parameters, scores=np.asarray(scores, float).tolist())
        for seed, (scores, parameters) in zip(batch.seeds, outcome, strict=True)
    ]


def methods(windows: Windows, params: Params) -> dict[str, Method]:
    """{name: method}; which ones there are depends on the layers that the cache holds."""
    layers = list(windows.features)
    visual, audio = ([name for name in layers if name.startswith(f"{kind}/")] for kind in ("visual", "audio"))
    found = [
        Method(f"{kind}, {title}", _probe(kind, names), random=False)
        for title, names in probe_sets(layers).items()
        for kind in probes
    ]
    found += [
        Method(f"{m} only, MLP", _design("ConcatMLP", names)) for m, names in (("visual", visual), ("audio", audio))
    ]
    found += [Method(_TITLES[design], _design(design, layers)) for design in DESIGNS]
    found += [Method(name, _fixed(genotype)) for name, genotype in fixed_genotypes(layers).items()]
    found += [Method(name, _searched(config)) for name, config in searches(params.search).items()]
    found.append(Method(f"random search, best of {RANDOM_ARCHITECTURES} on val", _random_search))
    return {method.name: method for method in found}


_TITLES = {"ConcatMLP": "concatenation MLP", "GMU": "gated multimodal unit", "CentralNet": "CentralNet"}

SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "search, space slots, st_gumbel": {"space": "slots", "estimator": "st_gumbel"},
    "search, space slots, gumbel_rao": {"space": "slots", "estimator": "gumbel_rao"},
    "search, space bmnas, st_gumbel (STGS-BMNAS)": {"space": "bmnas", "estimator": "st_gumbel"},
    "search, space bmnas, gumbel_rao (GRMC-BMNAS)": {"space": "bmnas", "estimator": "gumbel_rao"},
    "search, space bmnas, softmax (BM-NAS, DARTS)": {"space": "bmnas", "estimator": "softmax"},
    "search, one ConcatFC a cell (MFAS-like)": {"space": "slots", "operations": ("ConcatFC",), "steps": 1},
    "the released code's procedure": {"space": "bmnas", "estimator": "published", "temperature": 10.0, "samples": 15},
}
"""Searches, by what they change in params.yaml's `search`."""


def searches(own: nas.SearchConfig) -> dict[str, nas.SearchConfig]:
    """{name: settings} of SEARCHES, and params.yaml's own search where it is none of them."""
    found = {name: nas.SearchConfig.model_validate({**own.model_dump(), **of}) for name, of in SEARCHES.items()}
    return found if own in found.values() else {"search, as in params.yaml": own} | found


def _probe(kind: str, names: Sequence[str]) -> Any:
    def run(windows: Windows, params: Params, seeds: Sequence[int]) -> list[tuple[Floats, int]]:
        probe = probes[kind]({name: _plain(windows)[name] for name in names}, windows.labels, windows.split)
        return [(probe.scores, probe.parameters)]

    return run


def _design(design: str, names: Sequence[str]) -> Any:
    def run(windows: Windows, params: Params, seeds: Sequence[int]) -> list[tuple[Floats, int]]:
        features = {name: windows.features[name] for name in names}
        results = train_design(features, windows.labels, windows.split, design, params.retrain, seeds)
        return [(result.scores.double().numpy(), result.parameters) for result in results]

    return run


def _fixed(genotype: nas.Genotype) -> Any:
    def run(windows: Windows, params: Params, seeds: Sequence[int]) -> list[tuple[Floats, int]]:
        return _retrained(windows, params, [genotype] * len(seeds), seeds)

    return run


def _searched(config: nas.SearchConfig) -> Any:
    def run(windows: Windows, params: Params, seeds: Sequence[int]) -> list[tuple[Floats, int]]:
        found = nas.search(windows.features, windows.labels, windows.split, config, seeds)
        return _retrained(windows, params, [result.genotype for result in found], seeds)

    return run


def _random_search(windows: Windows, params: Params, seeds: Sequence[int]) -> list[tuple[Floats, int]]:
    search = params.search
    space = Space(tuple(windows.features), search.cells, search.steps, search.space, search.operations)
    outcome = []
    for seed in seeds:
        genotypes = space.sample(RANDOM_ARCHITECTURES, seed)
        results = nas.retrain(
            windows.features, windows.labels, windows.split, genotypes, params.retrain, [seed] * len(genotypes)
        )
        best = max(results, key=lambda result: result.curves[result.best_epoch]["val_auc"])
        outcome.append(_outcome(best))
    return outcome


def _retrained(
    windows: Windows, params: Params, genotypes: Sequence[nas.Genotype], seeds: Sequence[int]
) -> list[tuple[Floats, int]]:
    data = (windows.features, windows.labels, windows.split)
    return [_outcome(result) for result in nas.retrain(*data, genotypes, params.retrain, seeds)]


def _outcome(result: nas.RetrainResult) -> tuple[Floats, int]:
    return result.scores.double().numpy(), sum(p.numel() for p in result.network.parameters())


def _plain(windows: Windows) -> dict[str, torch.Tensor]:
    """The windows themselves, (N, L, C_in), without their views."""
    return {name: x if x.ndim == 3 else x[0] for name, x in windows.features.items()}


def late_fusion(rows: Mapping[str, Sequence[ScoredRow]], windows: Windows) -> dict[str, list[ScoredRow]]:
    """The two unimodal MLPs of each seed joined by their scores: mean, product, logistic regression fitted on val."""
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
                parameters=v.parameters + a.parameters,
                scores=rule(*(np.clip(row.scores, 1e-9, 1 - 1e-9) for row in (v, a))).tolist(),
            )
            for v, a in pairs
        ]
        for name, rule in rules.items()
    }


def _measured(index: pd.DataFrame, scored: Sequence[tuple[Split, ScoredRow]], seed: int) -> dict[str, Any]:
    tables = []
    for split, row in scored:
        test = np.array(split) == "test"
        tables.append(score_table(index[test], row.method, row.seed, np.array(row.scores)[test]))
    return measure_network(pd.concat(tables, ignore_index=True), seed)


def summary(results: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, int]) -> pd.DataFrame:
    """One row a method, the best first: clip level, mean and deviation over seeds, 95 % intervals over subjects."""
    rows = []
    for name, result in results.items():
        clip = result["clip"]
        row: dict[str, Any] = {"method": name, "seeds": len(result["seeds"]), "parameters": parameters[name]}
        row |= {"auc": clip["auc"]["mean"], "auc_std": clip["auc"]["std"]}
        row |= {f"auc_{end}": clip["auc_interval"][end] for end in ("low", "high")}
        row |= {metric: clip[metric]["mean"] for metric in ("eer", "average_precision", "balanced_accuracy")}
        for category, of in result["per_category"].items():
            row |= {f"auc_{category}": of["auc"]["mean"]}
            row |= {f"auc_{category}_{end}": of["auc_interval"][end] for end in ("low", "high")}
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["auc", "method"], ascending=[False, True], ignore_index=True)
