"""Stage `retrain`: every genotype from scratch on train, its best epoch chosen on val. Test is not looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import safetensors.torch
import torch
from pydantic import ValidationError

import nas
from cache_schemas.files import replacing, write_text
from cache_schemas.run import RetrainEntry, RetrainRun, RunFileError, SearchEntry, SearchRun, read_run, write_run
from nas.data import prepare
from nas.memory import retrain_memory
from pipeline.compute.workers import memory_per_worker, worker_count
from pipeline.params import Params
from pipeline.runs.cache import Source, Windows
from pipeline.runs.jobs import even_size, fitting_runs, most_runs, parts_of, run_shown, tell_epoch
from pipeline.runs.search import curves_table
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class NetworkTrainings:
    """Networks that train at once."""

    source: Source
    found: tuple[tuple[SearchEntry, nas.Genotype], ...]


def run_retrain(workspace: Workspace, params: Params) -> RetrainRun:
    """The trained networks; writes their weights (safetensors), retrain.json and curves.csv.

    Networks and seeds train side by side: as many at once as fit a worker's memory, all workers busy.
    """
    search, source = read_run(workspace.search / "search.json", SearchRun), Source(workspace.root, params)
    data = source.windows()
    found = [(entry, _genotype(workspace, entry, data)) for entry in search.entries]
    size = _together(data, params, [genotype for _, genotype in found])
    tasks = [NetworkTrainings(source, part) for part in parts_of(found, size)]
    shown = run_shown(
        "retrain", train_networks, tasks, params.compute, unit="networks", units=lambda task: len(task.found)
    )
    trained = {(entry.network, entry.seed): entry for _, of_task in shown for entry in of_task}
    entries = [trained[entry.network, entry.seed] for entry in search.entries]
    run = RetrainRun(params=params.model_dump(mode="json"), backbones=data.backbones, entries=entries)
    write_run(workspace.retrain / "retrain.json", run)
    write_text(workspace.retrain / "curves.csv", curves_table(entries).to_csv(index=False))
    return run


def train_networks(task: NetworkTrainings) -> list[RetrainEntry]:
    """One entry per network; its weights are in their file."""
    data, workspace = task.source.windows(), Workspace(task.source.work)
    seeds, genotypes = [entry.seed for entry, _ in task.found], [genotype for _, genotype in task.found]
    windows, config = (data.features, data.labels, data.split), task.source.params.retrain
    results = nas.retrain(*windows, genotypes, config, seeds, progress=tell_epoch)
    return [_entry(workspace, entry, result) for (entry, _), result in zip(task.found, results, strict=True)]


def _genotype(workspace: Workspace, entry: SearchEntry, data: Windows) -> nas.Genotype:
    """The genotype of an entry; raises RunFileError when it is malformed or was searched on another cache."""
    where = f"{workspace.search / 'search.json'}: the genotype of {entry.network}, seed {entry.seed},"
    try:
        genotype = nas.Genotype.model_validate(entry.genotype)
    except ValidationError as error:
        raise RunFileError(f"{where} is none of this space ({error.errors()[0]['msg']}): run `bmnas search`") from None
    allowed = data.layers_of(entry.network)
    unknown = [name for name in genotype.layers() if name not in allowed]
    if unknown:
        raise RunFileError(
            f"{where} reads {unknown}, which is none of its layers in {workspace.features} ({', '.join(allowed)}): it "
            "was searched on another cache; run `bmnas search` again"
        )
    return genotype


def _together(data: Windows, params: Params, genotypes: Sequence[nas.Genotype]) -> int:
    """How many networks a worker trains at once."""
    dataset = prepare(data.features, data.labels, data.split, None, reads="all")
    widest = max(genotypes, key=lambda genotype: sum(dataset.in_channels[name] for name in genotype.layers()))
    memory = retrain_memory(dataset, params.retrain, widest, same_seed=False)
    compute, networks = params.compute, len(genotypes)
    fitting = fitting_runs("retrain", memory, dataset, memory_per_worker(compute, networks))
    return even_size(networks, min(fitting, most_runs(compute)), worker_count(compute, networks))


def _entry(workspace: Workspace, found: SearchEntry, result: nas.RetrainResult) -> RetrainEntry:
    weights = f"{found.network}-{result.seed}.safetensors"
    with replacing(workspace.retrain / weights) as temporary:
        safetensors.torch.save_file(_tensors(result.network), temporary)
    return RetrainEntry(
        network=found.network,
        seed=result.seed,
        genotype=result.genotype.model_dump(mode="json"),
        spec=result.network.spec(),
        weights=weights,
        best_epoch=result.best_epoch,
        curves=result.curves,
    )


def _tensors(network: nas.CompactNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
