"""Stage `search`: the feature cache -> one genotype per seed, and the same search on each modality alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

import nas
from cache_schemas.files import write_text
from cache_schemas.run import NETWORKS, NetworkName, RetrainEntry, SearchEntry, SearchRun, history_of, write_run
from pipeline.compute.workers import worker_count
from pipeline.params import Params
from pipeline.runs.cache import Source
from pipeline.runs.jobs import even_size, most_runs, parts_of, run_shown, tell_epoch
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class NetworkSearch:
    """Searches for one network that run at once."""

    source: Source
    network: NetworkName
    seeds: tuple[int, ...]


def run_search(workspace: Workspace, params: Params) -> SearchRun:
    """The genotypes of every network and seed; writes search.json and curves.csv."""
    source, compute, runs = Source(workspace.root, params), params.compute, len(NETWORKS) * len(params.seeds)
    source.windows()  # what is wrong with the cache is said before workers start
    size = even_size(runs, most_runs(compute), worker_count(compute, runs))
    tasks = [NetworkSearch(source, network, part) for network in NETWORKS for part in parts_of(params.seeds, size)]
    shown = run_shown("search", search_network, tasks, compute, unit="runs", units=lambda task: len(task.seeds))
    found = {(entry.network, entry.seed): entry for _, entries in shown for entry in entries}
    run = SearchRun(entries=[found[network, seed] for network in NETWORKS for seed in params.seeds])
    write_run(workspace.search / "search.json", run)
    write_text(workspace.search / "curves.csv", curves_table(run.entries).to_csv(index=False))
    return run


def search_network(task: NetworkSearch) -> list[SearchEntry]:
    """One entry per seed."""
    data, config = task.source.windows(), task.source.params.search
    config = config.model_copy(update={"modality": "both" if task.network == "fusion" else task.network})
    results = nas.search(data.features, data.labels, data.split, config, task.seeds, progress=tell_epoch)
    return [
        SearchEntry(
            network=task.network,
            seed=result.seed,
            genotype=result.genotype.model_dump(mode="json"),
            curves=result.curves,
            probabilities=result.probabilities,
            history=history_of(result.history),
            warnings=result.warnings,
        )
        for result in results
    ]


def curves_table(entries: Sequence[SearchEntry | RetrainEntry]) -> pd.DataFrame:
    """One row per network, seed and epoch: what DVC plots."""
    return pd.DataFrame(
        [{"network": entry.network, "seed": entry.seed, **row} for entry in entries for row in entry.curves]
    )
