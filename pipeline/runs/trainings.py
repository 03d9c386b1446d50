"""Architectures trained from scratch in batches: what the oracle asks of all, and the sweep of those that it found."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch

import nas
from cache_schemas.files import digest
from cache_schemas.runs import FinishedRuns, TrainingRow
from nas.data import Dataset
from nas.memory import RunMemory, retrain_memory
from nas.metrics import area_under_roc
from pipeline.runs.cache import Source
from pipeline.runs.jobs import BatchError, batch_size, parts_of, run_batches, tell_epoch
from pipeline.workspace import Workspace

Training = tuple[nas.Genotype, int]
"""An architecture, and the seed to train it with."""


@dataclass(frozen=True)
class TrainingBatch:
    """Architectures to train with one seed: they share its minibatches."""

    source: Source
    keys: tuple[str, ...]
    genotypes: tuple[nas.Genotype, ...]
    seed: int


def train(
    title: str, source: Source, trainings: Sequence[Training], finished: FinishedRuns[TrainingRow]
) -> dict[Training, TrainingRow]:
    """The outcome of every training; those that are finished are not done again."""
    _check_test_split(source)
    identity, done = source.identity(), finished.read()
    settings = source.params.retrain.model_dump(mode="json", exclude={"device"})
    keys = {
        (genotype, seed): digest("training", identity, settings, genotype.model_dump(mode="json"), seed)
        for genotype, seed in sorted(dict.fromkeys(trainings), key=_alike)
    }
    batches = []
    for _, shaped in groupby(keys, key=_shape):
        of_shape = list(shaped)
        pending = [training for training in of_shape if keys[training] not in done]
        if not pending:
            continue
        size = _batch_size(title, source, of_shape, finished)
        for seed, of_seed in groupby(pending, key=lambda training: training[1]):
            chosen = [genotype for genotype, _ in of_seed]
            for part in parts_of(chosen, size):
                batches.append(TrainingBatch(source, tuple(keys[genotype, seed] for genotype in part), part, seed))
    kept = sum(key in done for key in keys.values())
    rows = run_batches(title, batches, train_batch, finished, source.params.compute, kept=kept)
    return {training: rows[key] for training, key in keys.items()}


def train_batch(batch: TrainingBatch) -> list[TrainingRow]:
    """One row per architecture of the batch."""
    start = time.perf_counter()
    windows = batch.source.windows()
    seeds = [batch.seed] * len(batch.genotypes)
    data, config = (windows.features, windows.labels, windows.split), batch.source.params.retrain
    results = nas.retrain(*data, batch.genotypes, config, seeds, progress=tell_epoch)
    test = torch.tensor([name == "test" for name in windows.split])
    labels = torch.as_tensor(windows.labels)[test]
    aucs = area_under_roc(torch.stack([result.scores[test] for result in results]), labels).tolist()
    seconds = (time.perf_counter() - start) / len(results)
    return [
        TrainingRow(
            genotype=result.genotype.model_dump(mode="json"),
            seed=batch.seed,
            val_auc=result.curves[result.best_epoch]["val_auc"],
            test_auc=auc,
            best_epoch=result.best_epoch,
            parameters=sum(p.numel() for p in result.network.parameters()),
            seconds=seconds,
        )
        for result, auc in zip(results, aucs, strict=True)
    ]


def _batch_size(title: str, source: Source, trainings: Sequence[Training], finished: FinishedRuns[TrainingRow]) -> int:
    heaviest = max((genotype for genotype, _ in trainings), key=lambda genotype: _channels(genotype, source))

    def memory(data: Dataset) -> RunMemory:
        return retrain_memory(data, source.params.retrain, heaviest, same_seed=True)

    return batch_size(title, memory, len(trainings), source, finished)


def _shape(training: Training) -> tuple[int, ...]:
    """What the architectures of one batch have in common: the steps of every cell."""
    return tuple(len(cell.steps) for cell in training[0].cells)


def _alike(training: Training) -> tuple[tuple[int, ...], int, tuple[str, ...], list[str]]:
    """A sort key: neighbours fit one batch, and use the same operations on the same layers."""
    genotype, seed = training
    operations = tuple(step.operation for cell in genotype.cells for step in cell.steps)
    return _shape(training), seed, operations, genotype.layers()


def _channels(genotype: nas.Genotype, source: Source) -> int:
    """Channels that the architecture reads: what its size depends on most."""
    features = source.windows().features
    return sum(features[name].shape[-2] for name in genotype.layers())


def _check_test_split(source: Source) -> None:
    windows = source.windows()
    present = {int(label) for label, name in zip(windows.labels, windows.split, strict=True) if name == "test"}
    if len(present) < 2:
        raise BatchError(
            f"{Workspace(source.work).features}: the test split holds only labels {sorted(present)}, and AUC needs "
            "both classes: raise split.test in params.yaml and run `bmnas manifest` to `bmnas features` again"
        )
