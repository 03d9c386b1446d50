"""Methods by name, run over one cache for each of several splits: every run once, in batches, kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial

import nas
from cache_schemas.files import digest
from cache_schemas.runs import FinishedRuns, ScoredRow
from nas.baselines import train_design
from pipeline.controls.probes import probes
from pipeline.experiments.methods import Method, methods
from pipeline.runs.cache import Source
from pipeline.runs.jobs import Batch, Job, do
from pipeline.runs.keys import code_version
from pipeline.workspace import Workspace

Split = tuple[str, ...]
"""(N,) train, val or test; "": no part of it"""
MethodRun = tuple[str, int, int]
"""A method's name, which of the splits, and a seed."""


def run_methods(
    title: str, source: Source, splits: Sequence[Split], names: Collection[str] | None = None
) -> list[dict[str, list[ScoredRow]]]:
    """Per split, {method: a row a seed}, in the order of `methods`; a row's scores are those of the split's windows.

    names: those to run, all where None.
    """
    known: dict[str, Method] = {
        name: method
        for name, method in methods(source.windows(), source.params).items()
        if names is None or name in names
    }
    code = code_version(nas.search, nas.retrain, train_design, methods, *probes.values())
    named = [digest(split) for split in splits]
    seeds = {name: source.params.seeds if method.random else (0,) for name, method in known.items()}
    job = Job(
        title,
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
    windows = source.windows().taken(splits[place])
    outcomes = methods(windows, source.params)[name].run(windows, seeds)
    own = len(windows.labels)
    return [
        ScoredRow(method=name, seed=s, failed=o.failed, parameters=o.parameters, scores=o.scores[:own].tolist())
        for s, o in zip(seeds, outcomes, strict=True)
    ]
