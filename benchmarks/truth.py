"""Every architecture of a space, or a sample, really trained on a fold of a protocol, and what searches find there.

As `bmnas oracle`, but on any fold and with the scores of the clips that are tested, which ensembles are made of. What
is finished is kept in WORK/runs/strategies: a killed run goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

import nas
from cache_schemas.files import digest
from cache_schemas.manifest import read_manifest
from cache_schemas.runs import FinishedRuns, RunRow
from nas.names import DEFAULT_OPERATIONS
from nas.space import Space, canonical
from pipeline.experiments.folds import Fold, folds_of, read_protocol
from pipeline.experiments.scored import Split
from pipeline.runs.cache import Source, hears, open_cache
from pipeline.runs.jobs import MOST_RUNS, Batch, Job, all_results, do, parts_of, tell_epoch
from pipeline.runs.keys import code_version, settings_of
from pipeline.workspace import Workspace
from tests.nas.problems import PROBLEMS

MEMBERS = 4
"""Genotypes that a search gives, where it can: its ensemble."""
SEARCHES: Mapping[str, Mapping[str, Any]] = {
    "st_gumbel": {"estimator": "st_gumbel", "derive": "best_of", "members": MEMBERS},
    "gumbel_rao": {"estimator": "gumbel_rao", "derive": "best_of", "members": MEMBERS},
    "st_gumbel, argmax": {"estimator": "st_gumbel", "derive": "argmax", "members": 1},
    "gumbel_rao, argmax": {"estimator": "gumbel_rao", "derive": "argmax", "members": 1},
    "st_gumbel, rungs 5, 5": {"estimator": "st_gumbel", "derive": "best_of", "members": MEMBERS, "rungs": (5, 5)},
}
"""By what they change in params.yaml's `search`; best_of where the name says nothing."""

Floats = NDArray[np.float64]
Row = TypeVar("Row", bound=RunRow)


class TrainedRow(RunRow):
    """One training. val: AUC on val, per window, after each epoch; scores: P(fake) of every clip that is tested.

    processor_s: its share of the processor time of its batch, which others on the machine hardly change.
    """

    processor_s: float
    val: list[float]
    scores: list[float]


class FoundRow(RunRow):
    """One search. found: its genotypes, the best first."""

    processor_s: float
    found: list[dict[str, Any]]


@dataclass(frozen=True)
class Cut:
    """A fold, as windows; clips: which tested clip a tested window is of, (tested windows,)."""

    name: str
    split: Split
    clips: NDArray[np.int64]
    labels: NDArray[np.int64]
    """(tested clips,) 1: fake"""
    people: tuple[str, ...]
    """(tested clips,)"""


@dataclass(frozen=True)
class Truth:
    """What is known of A architectures, trained S times for E epochs each, on one fold."""

    cut: Cut
    reads: list[str]
    """per architecture, "visual", "audio" or both as "audio, visual\""""
    neighbours: list[NDArray[np.int64]]
    """per architecture, those that differ in one choice"""
    curves: Floats
    """(A, S, E) AUC on val"""
    scores: Floats
    """(A, S, tested clips)"""
    found: dict[str, list[list[int]]]
    """{search: per seed, the architectures that it found, the best first}"""
    costs: dict[str, float]
    """{search: processor time of one, in trainings}"""

    @property
    def val(self) -> Floats:
        """(A, S) AUC on val of the epoch whose weights were kept."""
        return np.asarray(self.curves.max(-1))


def cuts_of(source: Source, protocol: str, least: int) -> Iterator[Cut]:
    """The folds of a protocol that test `least` clips or more, of both classes."""
    workspace = Workspace(source.work)
    index = open_cache(workspace, source.params).index
    there = set(index["clip_id"])
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in there]
    place = index["clip_id"].map({clip.clip_id: i for i, clip in enumerate(clips)}).to_numpy()
    for number, fold in enumerate(folds_of(read_protocol(protocol)[1], clips, seed=source.params.seed)):
        if isinstance(fold, Fold):
            tested = [i for i, side in enumerate(fold.split) if side == "test"]
            if len(tested) >= least and len({clips[i].label for i in tested}) == 2:
                split = tuple(np.array(fold.split, object)[place])
                number_of = {i: at for at, i in enumerate(tested)}
                yield Cut(
                    f"{protocol} {number}: {fold.trained_on}",
                    split,
                    np.array([number_of[i] for i, side in zip(place.tolist(), split, strict=True) if side == "test"]),
                    np.array([clips[i].label for i in tested]),
                    tuple(clips[i].subject_id for i in tested),
                )


@dataclass(frozen=True)
class Question:
    """Which architectures, how often each is trained, and how many searches of each kind are done.

    sample: so many architectures; 0: all. Of a sample no neighbours are known, nor what searches find.
    """

    cells: int
    steps: int
    sample: int
    seeds: int
    searches: int

    def space(self, layers: Sequence[str], operations: tuple[str, ...] = DEFAULT_OPERATIONS) -> Space:
        """The space over these layers."""
        return Space(tuple(layers), self.cells, self.steps, "slots", operations)


def truth_of(source: Source, cut: Cut, question: Question) -> Truth:
    """Trains and searches what is not done yet."""
    space = question.space(list(source.windows().features), source.params.search.operations)
    genotypes = space.sample(question.sample, source.params.seed) if question.sample else space.distinct()
    place = {genotype: i for i, genotype in enumerate(genotypes)}
    seeds, searches = range(question.seeds), range(0 if question.sample else question.searches)
    trained = _trained(source, cut, genotypes, seeds)
    rows = [[trained[genotype, seed] for seed in seeds] for genotype in genotypes]
    training_s = np.mean([row.processor_s for row in trained.values()])
    found = _searched(source, cut, space, searches) if searches else {}
    return Truth(
        cut=cut,
        reads=[_read(genotype) for genotype in genotypes],
        neighbours=[np.empty(0, np.int64) if question.sample else _beside(space, g, place) for g in genotypes],
        curves=np.array([[row.val for row in of] for of in rows]),
        scores=np.array([[row.scores for row in of] for of in rows]),
        found={
            name: [[place[canonical(nas.Genotype.model_validate(of))] for of in row.found] for row in of_name]
            for name, of_name in found.items()
        },
        costs={
            name: float(np.mean([row.processor_s for row in of_name]) / training_s) for name, of_name in found.items()
        },
    )


def planted_truth(name: str, drawing: int, question: Question) -> tuple[Truth, NDArray[np.bool_]]:
    """(a problem of tests/nas/problems.py, each architecture trained once, which of them read what carries the label).

    Trained in this process, and not kept.
    """
    problem = PROBLEMS[name](drawing)
    space = question.space(list(problem.features))
    genotypes = space.distinct()
    place = {genotype: i for i, genotype in enumerate(genotypes)}
    epochs = problem.epochs
    config = nas.RetrainConfig(channels=16, epochs=epochs, patience=epochs, restart_epochs=epochs)
    data = (problem.features, problem.labels, problem.split)
    trained = [
        result
        for part in parts_of(genotypes, MOST_RUNS["cpu"])
        for result in nas.retrain(*data, part, config, (0,) * len(part))
    ]
    test = np.array(problem.split) == "test"
    tested = np.flatnonzero(test)
    cut = Cut(
        name, tuple(problem.split), np.arange(len(tested)), problem.labels.numpy()[tested], tuple(map(str, tested))
    )
    truth = Truth(
        cut=cut,
        reads=[_read(genotype) for genotype in genotypes],
        neighbours=[_beside(space, genotype, place) for genotype in genotypes],
        curves=np.array([[[row["val_auc"] for row in result.curves]] for result in trained]),
        scores=np.array([[result.scores.double().numpy()[tested]] for result in trained]),
        found={},
        costs={},
    )
    return truth, np.array([problem.fits(genotype) for genotype in genotypes])


def _read(genotype: nas.Genotype) -> str:
    return ", ".join(sorted({name.partition("/")[0] for name in genotype.layers()}))


def _beside(space: Space, genotype: nas.Genotype, place: Mapping[nas.Genotype, int]) -> NDArray[np.int64]:
    found = {place[canonical(neighbour)] for neighbour in space.neighbours(genotype)} - {place[genotype]}
    return np.array(sorted(found))


def _trained(
    source: Source, cut: Cut, genotypes: Sequence[nas.Genotype], seeds: Sequence[int]
) -> dict[tuple[nas.Genotype, int], TrainedRow]:
    shared = ["strategies 2", code_version(nas.retrain), settings_of(source.params.retrain), digest(cut.split)]
    alike = sorted(
        genotypes, key=lambda g: ([step.operation for cell in g.cells for step in cell.steps], g.layers())
    )  # neighbours share a batch's work
    job = Job(
        f"trainings, {cut.name}",
        source,
        [(genotype, seed) for seed in seeds for genotype in alike],
        lambda run: [*shared, run[0].model_dump(mode="json"), run[1]],
        partial(train_batch, cut=cut),
        lambda run: (hears(run[0].layers()), run[1]),
        _kept(source, TrainedRow),
    )
    return do(job)


def _searched(source: Source, cut: Cut, space: Space, seeds: Sequence[int]) -> dict[str, list[FoundRow]]:
    """{search: a row a seed}."""
    own = {**source.params.search.model_dump(), "cells": space.cells, "steps": space.steps}
    configs = {name: nas.SearchConfig.model_validate({**own, **of}) for name, of in SEARCHES.items()}
    shared = ["strategies 2", code_version(nas.search), digest(cut.split)]
    job = Job(
        f"searches, {cut.name}",
        source,
        [(name, seed) for name in configs for seed in seeds],
        lambda run: [*shared, settings_of(configs[run[0]]), run[1]],
        partial(search_batch, cut=cut, configs=configs),
        lambda run: run[0],
        _kept(source, FoundRow),
    )
    rows = do(job)
    return {name: [rows[name, seed] for seed in seeds] for name in configs}


def train_batch(source: Source, batch: Batch[tuple[nas.Genotype, int]], cut: Cut) -> list[TrainedRow]:
    """One row per training of the batch."""
    start = time.process_time()
    genotypes, seeds = zip(*batch.runs, strict=True)
    data, tested = _data(source, cut, genotypes[0].layers())
    results = nas.retrain(*data, genotypes, source.params.retrain, seeds, progress=tell_epoch)
    counts, taken = np.bincount(cut.clips), time.process_time() - start
    return [
        TrainedRow(
            seed=result.seed,
            processor_s=taken / len(results),
            val=[row["val_auc"] for row in result.curves],
            scores=(np.bincount(cut.clips, result.scores.double().numpy()[tested]) / counts).tolist(),
        )
        for result in results
    ]


def search_batch(
    source: Source, batch: Batch[tuple[str, int]], cut: Cut, configs: Mapping[str, nas.SearchConfig]
) -> list[FoundRow]:
    """One row per search of the batch, which share their settings."""
    start = time.process_time()
    data, _ = _data(source, cut, source.windows().features)
    seeds = [seed for _, seed in batch.runs]
    results = all_results(lambda: nas.search(*data, configs[batch.runs[0][0]], seeds, progress=tell_epoch))
    taken = (time.process_time() - start) / len(results)
    return [
        FoundRow(
            seed=result.seed, processor_s=taken, found=[of.genotype.model_dump(mode="json") for of in result.members]
        )
        for result in results
    ]


def _data(
    source: Source, cut: Cut, layers: Iterable[str]
) -> tuple[tuple[dict[str, Tensor], NDArray[np.int64], list[str]], NDArray[np.bool_]]:
    """(features, labels and split of what takes part, which of it is tested); layers: what the networks read."""
    windows = source.windows().taken(cut.split).to_train_on(layers)
    return (windows.features, windows.labels, windows.split), np.array(windows.split) == "test"


def _kept(source: Source, kind: type[Row]) -> FinishedRuns[Row]:
    return FinishedRuns(Workspace(source.work).runs / "strategies" / kind.__name__, kind)
