"""Stage `retrain`: every genotype from scratch on train, its best epoch chosen on val. Test is not looked at."""

from __future__ import annotations

import safetensors.torch
import torch

import nas
from cache_schemas.files import replacing, write_text
from cache_schemas.run import NETWORKS, RetrainEntry, RetrainRun, SearchRun, read_run, write_run
from pipeline.params import Params
from pipeline.search import curves_table, epochs_bar, load_windows
from pipeline.workspace import Workspace


def run_retrain(workspace: Workspace, params: Params) -> RetrainRun:
    """The trained networks; writes their weights (safetensors), retrain.json and curves.csv."""
    search = read_run(workspace.search / "search.json", SearchRun)
    data = load_windows(workspace, params)
    entries = []
    with epochs_bar("retrain", params.retrain.epochs * len(NETWORKS)) as progress:
        for network in NETWORKS:
            found = [entry for entry in search.entries if entry.network == network]
            results = nas.retrain(
                data.layers_of(network),
                data.labels,
                data.split,
                [nas.Genotype.model_validate(entry.genotype) for entry in found],
                params.retrain,
                [entry.seed for entry in found],
                progress=progress,
            )
            for result in results:
                weights = f"{network}-{result.seed}.safetensors"
                with replacing(workspace.retrain / weights) as temporary:
                    safetensors.torch.save_file(_tensors(result.network), temporary)
                entries.append(
                    RetrainEntry(
                        network=network,
                        seed=result.seed,
                        genotype=result.genotype.model_dump(mode="json"),
                        spec=result.network.spec(),
                        weights=weights,
                        best_epoch=result.best_epoch,
                        curves=result.curves,
                    )
                )
    run = RetrainRun(params=params.model_dump(mode="json"), backbones=data.backbones, entries=entries)
    write_run(workspace.retrain / "retrain.json", run)
    write_text(workspace.retrain / "curves.csv", curves_table(entries).to_csv(index=False))
    return run


def _tensors(network: nas.CompactNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
