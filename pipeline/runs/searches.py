"""Searches in batches: what the sweep runs over a grid, and the oracle per method."""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import nas
from cache_schemas.files import digest
from cache_schemas.runs import FinishedRuns, SearchRow
from nas.memory import search_memory
from nas.scoring import shared_scores
from pipeline.runs.cache import Source
from pipeline.runs.jobs import batch_size, parts_of, run_batches, tell_epoch

Search = tuple[nas.SearchConfig, int]
"""The settings of a search, and its seed."""


@dataclass(frozen=True)
class SearchBatch:
    """Searches that share the shape of their work. judged: architectures to score with every run's shared weights."""

    source: Source
    keys: tuple[str, ...]
    configs: tuple[nas.SearchConfig, ...]
    seeds: tuple[int, ...]
    judged: tuple[nas.Genotype, ...]


def search_all(
    title: str,
    source: Source,
    searches: Sequence[Search],
    finished: FinishedRuns[SearchRow],
    judged: Sequence[nas.Genotype] = (),
) -> list[SearchRow]:
    """The outcome of every search, in order; those that are finished are not done again."""
    identity, of_judged = source.identity(), digest([g.model_dump(mode="json") for g in judged])
    keys = {search: digest("search", identity, _settings(search[0]), search[1], of_judged) for search in searches}
    done = finished.read()
    groups: dict[Hashable, list[Search]] = {}
    for search in keys:
        groups.setdefault(nas.batch_key(search[0]), []).append(search)
    batches = []
    for group in groups.values():
        pending = [search for search in group if keys[search] not in done]
        if pending:
            size = _batch_size(title, source, group, finished)
            for part in parts_of(pending, size):
                configs, seeds = zip(*part, strict=True)
                batches.append(SearchBatch(source, tuple(keys[s] for s in part), configs, seeds, tuple(judged)))
    kept = sum(key in done for key in keys.values())
    rows = run_batches(title, batches, search_batch, finished, source.params.compute, kept=kept)
    return [rows[keys[search]] for search in searches]


def search_batch(batch: SearchBatch) -> list[SearchRow]:
    """One row per search of the batch.

    Runs whose architecture gradient vanishes are told apart from the others by halving the batch: no run is lost
    because of its companions.
    """
    start = time.perf_counter()
    windows = batch.source.windows()
    data = (windows.features, windows.labels, windows.split)
    try:
        results = nas.search(*data, batch.configs, batch.seeds, progress=tell_epoch, keep_weights=bool(batch.judged))
    except nas.VanishingArchitectureGradient as error:
        if len(batch.keys) > 1:
            return [row for half in _halves(batch) for row in search_batch(half)]
        seconds = time.perf_counter() - start
        (config,), (seed,) = batch.configs, batch.seeds
        return [SearchRow(settings=_settings(config), seed=seed, genotype=None, failed=str(error), seconds=seconds)]
    seconds = (time.perf_counter() - start) / len(results)
    return [
        SearchRow(
            settings=_settings(config),
            seed=result.seed,
            genotype=result.genotype.model_dump(mode="json"),
            last=result.curves[-1],
            scores=[] if result.weights is None else shared_scores(*data, batch.judged, result.weights).tolist(),
            seconds=seconds,
        )
        for config, result in zip(batch.configs, results, strict=True)
    ]


def _batch_size(title: str, source: Source, group: Sequence[Search], finished: FinishedRuns[SearchRow]) -> int:
    costliest = max((config for config, _ in group), key=lambda config: config.samples)
    return batch_size(title, lambda data: search_memory(data, costliest), len(group), source, finished)


def _halves(batch: SearchBatch) -> list[SearchBatch]:
    middle = len(batch.keys) // 2
    return [
        replace(batch, keys=batch.keys[part], configs=batch.configs[part], seeds=batch.seeds[part])
        for part in (slice(None, middle), slice(middle, None))
    ]


def _settings(config: nas.SearchConfig) -> dict[str, object]:
    return config.model_dump(mode="json", exclude={"device"})
