"""Trainings from scratch, many at once, and stage `retrain`: every found genotype, its best epoch chosen on val."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import safetensors.torch
import torch
from pydantic import ValidationError

import nas
from cache_schemas.files import replacing
from cache_schemas.run import (
    Member,
    RetrainEntry,
    RetrainRun,
    RunFileError,
    SearchEntry,
    SearchRun,
    read_run,
    write_run,
)
from cache_schemas.runs import FinishedRuns, TrainingRow
from cache_schemas.tables import write_table
from nas.data import Dataset
from nas.memory import RunMemory, retrain_memory
from nas.scoring import area_under_roc
from pipeline.compute.progress import console
from pipeline.params import Params
from pipeline.runs.cache import Source, Windows, hears
from pipeline.runs.jobs import MOST_RUNS, Batch, Job, JobError, all_results, do, failures, tell_epoch
from pipeline.runs.keys import code_version, settings_of
from pipeline.runs.search import check_fusion, curves_table
from pipeline.workspace import Workspace

Training = tuple[nas.Genotype, int]
"""An architecture, and the seed to train it with."""


def run_retrain(workspace: Workspace, params: Params) -> RetrainRun:
    """The trained networks; writes their weights (safetensors), retrain.json and curves.csv. Test is not looked at.

    Searches that failed have none. Trainings that fail are named; raises JobError when no fusion network is left.
    """
    search, source = read_run(workspace.search / "search.json", SearchRun), Source.of(workspace, params)
    data = source.windows()
    for run in search.failed:
        console.print(f"[yellow]retrain: {run.name}, seed {run.seed} is left out: its search failed")
    if search.cache not in ("", source.identity):
        console.print("[yellow]retrain: these genotypes were searched on another cache than they are now trained on")
    members = [(entry, training) for entry in search.entries for training in _trainings(workspace, search, entry, data)]
    trained = train("retrain", source, [training for _, training in members], test=False)
    rows = [(found, trained[training]) for found, training in members]
    failed = failures((found.network, row) for found, row in rows)
    entries = [_entry(workspace, found, row) for found, row in rows if not row.failed]
    check_fusion("retrain", entries, failed)
    outcome = RetrainRun(
        cache=source.identity,
        params=params.model_dump(mode="json"),
        backbones=data.backbones,
        entries=entries,
        failed=failed,
    )
    write_run(workspace.retrain / "retrain.json", outcome)
    write_table(workspace.retrain / "curves.csv", curves_table(entries))
    return outcome


def train(title: str, source: Source, trainings: Iterable[Training], *, test: bool) -> dict[Training, TrainingRow]:
    """The outcome of every training; those that are finished are not done again.

    test: measure them on the test split, and forget them; else their weights are kept, and test is not looked at.
    """
    if test:
        _check_test_split(source)
    wanted = sorted(dict.fromkeys(trainings), key=_alike)
    shared = ["training", code_version(nas.retrain), settings_of(source.params.retrain), test]
    # Networks of one seed share their minibatches, which saves time where they are enough to keep a worker busy.
    alone = min(Counter(seed for _, seed in wanted).values(), default=0) >= MOST_RUNS["cpu"]
    job = Job(
        title,
        source,
        wanted,
        lambda run: [*shared, run[0].model_dump(mode="json"), run[1]],
        partial(train_batch, test=test),
        lambda run: (_shape(run), hears(run[0].layers()), run[1] if alone else None),
        _finished(Workspace(source.work)),
        partial(_memory, source.params.retrain),
    )
    return do(job)


def train_batch(source: Source, batch: Batch[Training], test: bool) -> list[TrainingRow]:
    """One row per training of the batch."""
    windows = source.windows().to_train_on(batch.runs[0][0].layers())
    folder = _finished(Workspace(source.work)).folder
    data, config = (windows.features, windows.labels, windows.split), source.params.retrain
    genotypes, seeds = zip(*batch.runs, strict=True)
    results = all_results(lambda: nas.retrain(*data, genotypes, config, seeds, progress=tell_epoch))
    rows = []
    for key, result in zip(batch.keys, results, strict=True):
        known = {} if result.failed else _well(result)
        if known and test:
            known["test_auc"] = _test_auc(windows, result.scores)
        elif known:
            known["file"] = f"{key}.safetensors"
            with replacing(folder / known["file"]) as temporary:
                safetensors.torch.save_file(_tensors(result.network), temporary)
        genotype = result.genotype.model_dump(mode="json")
        rows.append(TrainingRow(seed=result.seed, failed=result.failed, genotype=genotype, **known))
    return rows


def _well(result: nas.RetrainResult) -> dict[str, Any]:
    return {
        "spec": result.network.spec(),
        "best_epoch": result.best_epoch,
        "curves": result.curves,
        "parameters": sum(p.numel() for p in result.network.parameters()),
    }


def _finished(workspace: Workspace) -> FinishedRuns[TrainingRow]:
    return FinishedRuns(workspace.runs / "trainings", TrainingRow)


def _trainings(workspace: Workspace, search: SearchRun, entry: SearchEntry, data: Windows) -> list[Training]:
    """What an entry's members are trained with."""
    most = max(len(each.members) for each in search.entries)
    genotypes = [_genotype(workspace, entry, member, data) for member in entry.members]
    return [(genotype, training_seed(entry.seed, place, most)) for place, genotype in enumerate(genotypes)]


def training_seed(seed: int, place: int, members: int) -> int:
    """That of a search's member: every network of a name has its own, and a single member has its search's."""
    return members * seed + place


def _genotype(workspace: Workspace, entry: SearchEntry, member: Member, data: Windows) -> nas.Genotype:
    """The genotype of a member; raises RunFileError when it is malformed or was searched on another cache."""
    where = f"{workspace.search / 'search.json'}: a genotype of {entry.network}, seed {entry.seed},"
    try:
        genotype = nas.Genotype.model_validate(member.genotype)
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


def _entry(workspace: Workspace, found: SearchEntry, row: TrainingRow) -> RetrainEntry:
    """What retrain.json says of a network, whose weights are put beside it."""
    weights = f"{found.network}-{row.seed}.safetensors"
    with replacing(workspace.retrain / weights) as temporary:
        shutil.copyfile(_finished(workspace).folder / row.file, temporary)
    of_row = row.model_dump(include={"seed", "genotype", "spec", "best_epoch", "curves"})
    return RetrainEntry(network=found.network, search=found.seed, weights=weights, **of_row)


def _tensors(network: nas.CompactNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}


def _test_auc(windows: Windows, scores: torch.Tensor) -> float:
    test = torch.tensor([name == "test" for name in windows.split])
    return float(area_under_roc(scores[None, test], torch.as_tensor(windows.labels)[test])[0])


def _memory(config: nas.RetrainConfig, data: Dataset, trainings: Sequence[Training]) -> RunMemory:
    """That of the architecture that reads most channels: what its size depends on most."""
    heaviest, _ = max(trainings, key=lambda run: sum(data.in_channels[name] for name in run[0].layers()))
    return retrain_memory(data, config, heaviest, same_seed=len({seed for _, seed in trainings}) == 1)


def _shape(training: Training) -> tuple[int, ...]:
    """What the architectures of one batch have in common: the steps of every cell."""
    return tuple(len(cell.steps) for cell in training[0].cells)


def _alike(training: Training) -> tuple[tuple[int, ...], int, tuple[str, ...], list[str]]:
    """A sort key: neighbours fit one batch, and use the same operations on the same layers."""
    genotype, seed = training
    operations = tuple(step.operation for cell in genotype.cells for step in cell.steps)
    return _shape(training), seed, operations, genotype.layers()


def _check_test_split(source: Source) -> None:
    windows = source.windows()
    present = {int(label) for label, name in zip(windows.labels, windows.split, strict=True) if name == "test"}
    if len(present) < 2:
        raise JobError(
            f"{Workspace(source.work).features}: the test split holds only labels {sorted(present)}, and AUC needs "
            "both classes: raise split.test in params.yaml and run `bmnas manifest` to `bmnas features` again"
        )
