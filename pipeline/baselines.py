"""Command `baselines`: everything that a searched network has to beat, on the same cache, splits and seeds.

work/baselines/baselines.csv    one row a method, the best clip AUC on the test split first
work/baselines/baselines.json   the same in full: per category, per method of forgery, per seed
work/baselines/baselines.svg    AUC with its interval over subjects
work/baselines/runs/            finished methods (cache_schemas.runs)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

import nas
from cache_schemas.files import digest, write_json, write_text
from cache_schemas.runs import FinishedRuns, RunRow
from nas.baselines import DESIGNS, fixed_genotypes, train_design
from nas.enumeration import Space
from pipeline.batches import Source, run_batches
from pipeline.evaluate import score_table
from pipeline.experiment_plots import baselines_svg, standalone
from pipeline.features import open_cache
from pipeline.measure import measure_network
from pipeline.params import Params
from pipeline.probes import probe_sets, probes, stacked
from pipeline.search import Windows
from pipeline.workspace import Workspace

RANDOM_ARCHITECTURES = 8
"""Trained by random search, which keeps the best on val: about what a search and one training cost."""

Floats = NDArray[np.float64]


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
    """One method, all its seeds."""

    source: Source
    keys: tuple[str, ...]
    method: str
    seeds: tuple[int, ...]


def run_baselines(workspace: Workspace, params: Params) -> pd.DataFrame:
    """One row a method; finished methods are not done again."""
    source = Source(workspace.root, params)
    windows = source.windows()
    finished = FinishedRuns(workspace.baselines / "runs", ScoredRow)
    rows = _run_methods(source, finished)
    by_method: dict[str, list[ScoredRow]] = {}
    for row in rows:
        by_method.setdefault(row.method, []).append(row)
    by_method |= late_fusion(by_method, windows)
    index = open_cache(workspace, params).index
    results = {name: _measured(index, of_method, params.seed) for name, of_method in by_method.items()}
    table = summary(results, {name: of_method[0].parameters for name, of_method in by_method.items()})
    write_json(workspace.baselines / "baselines.json", results)
    write_text(workspace.baselines / "baselines.csv", table.to_csv(index=False))
    write_text(workspace.baselines / "baselines.svg", standalone(baselines_svg(table)))
    return table


def _run_methods(source: Source, finished: FinishedRuns[ScoredRow]) -> list[ScoredRow]:
    """The rows of every method, in the order of `methods`."""
    params, identity = source.params, source.identity()
    settings = {
        name: getattr(params, name).model_dump(mode="json", exclude={"device"}) for name in ("search", "retrain")
    }
    done = finished.read()
    batches: list[MethodBatch] = []
    order: list[str] = []
    for method in methods(source.windows()).values():
        seeds = tuple(params.seeds) if method.random else (0,)
        keys = tuple(digest("baseline", identity, settings, method.name, seed) for seed in seeds)
        order += keys
        if not all(key in done for key in keys):
            batches.append(MethodBatch(source, keys, method.name, seeds))
    kept = sum(key in done for key in order)
    rows = run_batches("baselines", batches, run_method, finished, params.compute, kept=kept)
    return [rows[key] for key in order]


def run_method(batch: MethodBatch) -> list[ScoredRow]:
    """One row per seed."""
    windows = batch.source.windows()
    outcome = methods(windows)[batch.method].run(windows, batch.source.params, batch.seeds)
    return [
        ScoredRow(method=batch.method, seed=seed, parameters=parameters, scores=np.asarray(scores, float).tolist())
        for seed, (scores, parameters) in zip(batch.seeds, outcome, strict=True)
    ]


def methods(windows: Windows) -> dict[str, Method]:
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
    found += [Method(name, _fixed(genotype)) for name, genotype in fixed_genotypes(visual, audio).items()]
    found += [Method(name, _searched(changes)) for name, changes in SEARCHES.items()]
    found.append(Method(f"random search, best of {RANDOM_ARCHITECTURES} on val", _random_search))
    return {method.name: method for method in found}


_TITLES = {"ConcatMLP": "concatenation MLP", "GMU": "gated multimodal unit", "CentralNet": "CentralNet"}

SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "search, as in params.yaml": {},
    "search, space slots, st_gumbel": {"space": "slots", "estimator": "st_gumbel"},
    "search, space slots, gumbel_rao": {"space": "slots", "estimator": "gumbel_rao"},
    "search, space bmnas, st_gumbel (STGS-BMNAS)": {"space": "bmnas", "estimator": "st_gumbel"},
    "search, space bmnas, gumbel_rao (GRMC-BMNAS)": {"space": "bmnas", "estimator": "gumbel_rao"},
    "search, space bmnas, softmax (BM-NAS, DARTS)": {"space": "bmnas", "estimator": "softmax"},
    "search, one ConcatFC a cell (MFAS-like)": {"space": "slots", "operations": ("ConcatFC",), "steps": 1},
    "the released code's procedure": {"space": "bmnas", "estimator": "published", "temperature": 10.0, "samples": 15},
}
"""Searches, by what they change in params.yaml's `search`."""


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


def _searched(changes: Mapping[str, Any]) -> Any:
    def run(windows: Windows, params: Params, seeds: Sequence[int]) -> list[tuple[Floats, int]]:
        config = nas.SearchConfig.model_validate({**params.search.model_dump(), **changes})
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
    """The windows themselves, (N, C_in, L), without their views."""
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


def _measured(index: pd.DataFrame, rows: Sequence[ScoredRow], seed: int) -> dict[str, Any]:
    test = (index["split"] == "test").to_numpy()
    tables = [score_table(index[test], row.method, row.seed, np.array(row.scores)[test]) for row in rows]
    return measure_network(pd.concat(tables, ignore_index=True), seed)


def summary(results: Mapping[str, Mapping[str, Any]], parameters: Mapping[str, int]) -> pd.DataFrame:
    """One row a method, the best first: clip level on the test split, mean and deviation over seeds."""
    rows = []
    for name, result in results.items():
        clip = result["clip"]
        row: dict[str, Any] = {"method": name, "seeds": len(result["seeds"]), "parameters": parameters[name]}
        row |= {"auc": clip["auc"]["mean"], "auc_std": clip["auc"]["std"]}
        row |= {f"auc_{end}": clip["auc_interval"][end] for end in ("low", "high")}
        row |= {metric: clip[metric]["mean"] for metric in ("eer", "average_precision", "balanced_accuracy")}
        row |= {f"auc_{category}": of["auc"]["mean"] for category, of in result["per_category"].items()}
        rows.append(row)
    return pd.DataFrame(rows).sort_values(["auc", "method"], ascending=[False, True], ignore_index=True)
