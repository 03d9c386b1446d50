"""Searches, many at once, and stage `search`: genotypes per seed, and the same search on each modality alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any

import pandas as pd
from torch import Tensor

import nas
from cache_schemas.run import (
    NETWORKS,
    Failure,
    Member,
    NetworkName,
    RetrainEntry,
    SearchEntry,
    SearchRun,
    history_of,
    write_run,
)
from cache_schemas.runs import FinishedRuns, SearchRow
from cache_schemas.tables import write_table
from nas.data import Dataset
from nas.memory import RunMemory, search_memory
from nas.scoring import shared_scores
from pipeline.params import Params
from pipeline.runs.cache import Source
from pipeline.runs.jobs import Batch, Job, JobError, all_results, do, failures, tell_epoch
from pipeline.runs.keys import code_version, settings_of
from pipeline.workspace import Workspace

Search = tuple[nas.SearchConfig, int]
"""The settings of a search, and its seed."""


def run_search(workspace: Workspace, params: Params) -> SearchRun:
    """The genotypes of every network and seed; writes search.json and curves.csv.

    Searches that fail are named there; raises JobError when no fusion search is left.
    """
    source = Source.of(workspace, params)
    wanted = [(network, seed) for network in NETWORKS for seed in params.seeds]
    rows = search_all("search", source, [(_config(params.search, network), seed) for network, seed in wanted])
    failed = failures((network, row) for (network, _), row in zip(wanted, rows, strict=True))
    run = SearchRun(cache=source.identity, entries=[row.found for row in rows if row.found], failed=failed)
    check_fusion("search", run.entries, failed)
    write_run(workspace.search / "search.json", run)
    write_table(workspace.search / "curves.csv", curves_table(run.entries))
    return run


def search_all(
    title: str, source: Source, searches: Sequence[Search], judged: Sequence[nas.Genotype] = ()
) -> list[SearchRow]:
    """The outcome of every search, in order; those that are finished are not done again.

    judged: architectures to score with every run's shared weights.
    """
    shared = [code_version(nas.search), [genotype.model_dump(mode="json") for genotype in judged]]
    job = Job(
        title,
        source,
        searches,
        lambda search: ["search", *shared, settings_of(search[0]), search[1]],
        partial(search_batch, judged=tuple(judged)),
        lambda search: nas.batch_key(search[0]),
        FinishedRuns(Workspace(source.work).runs / "searches", SearchRow),
        _memory,
    )
    rows = do(job)
    return [rows[search] for search in searches]


def search_batch(source: Source, batch: Batch[Search], judged: tuple[nas.Genotype, ...]) -> list[SearchRow]:
    """One row per search of the batch."""
    configs, seeds = zip(*batch.runs, strict=True)
    windows = source.windows()
    windows = windows.to_train_on(windows.layers_of(network_of(configs[0])))
    data = (windows.features, windows.labels, windows.split)
    results = all_results(lambda: nas.search(*data, configs, seeds, progress=tell_epoch, keep_weights=bool(judged)))
    return [
        SearchRow(
            settings=config.model_dump(mode="json", exclude={"device"}),
            seed=result.seed,
            failed=result.failed,
            found=None if result.failed else _entry(config, result),
            scores=_scores(data, judged, result.weights) if result.weights else [],
        )
        for config, result in zip(configs, results, strict=True)
    ]


def network_of(config: nas.SearchConfig) -> NetworkName:
    """What the config searches for."""
    return "fusion" if config.modality == "both" else config.modality


def _entry(config: nas.SearchConfig, result: nas.SearchResult) -> SearchEntry:
    return SearchEntry(
        network=network_of(config),
        seed=result.seed,
        members=[
            Member(genotype=found.genotype.model_dump(mode="json"), score=found.score, trained=found.trained)
            for found in result.members
        ],
        curves=result.curves,
        probabilities=result.probabilities,
        history=history_of(result.history),
        warnings=result.warnings,
    )


def _scores(
    data: tuple[Any, Any, Any], judged: Sequence[nas.Genotype], weights: Mapping[str, Tensor]
) -> list[float | None]:
    return [score if isfinite(score) else None for score in shared_scores(*data, judged, weights).tolist()]


def _config(own: nas.SearchConfig, network: NetworkName) -> nas.SearchConfig:
    return own.model_copy(update={"modality": "both" if network == "fusion" else network})


def _memory(data: Dataset, searches: Sequence[Search]) -> RunMemory:
    return search_memory(data, max((config for config, _ in searches), key=lambda config: config.samples))


def check_fusion(title: str, entries: Sequence[SearchEntry | RetrainEntry], failed: Sequence[Failure]) -> None:
    """Raises JobError with all reasons when no fusion network is left: the references alone answer nothing."""
    if not any(entry.network == "fusion" for entry in entries):
        reasons = "\n".join(f"  {run.name}: {run.reason}" for run in failed)
        raise JobError(f"{title}: no fusion network is left:\n{reasons}")


def curves_table(entries: Sequence[SearchEntry | RetrainEntry]) -> pd.DataFrame:
    """One row per network, seed and epoch: what DVC plots."""
    return pd.DataFrame(
        [{"network": entry.network, "seed": entry.seed, **row} for entry in entries for row in entry.curves]
    )
