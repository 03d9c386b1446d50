"""Command `oracle`: every architecture of a space trained from scratch, the truth that searches are measured by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import nas
from cache_schemas.files import write_text
from cache_schemas.oracle import OracleEntry, OracleTable
from cache_schemas.run import Failure
from cache_schemas.runs import TrainingRow
from cache_schemas.tables import write_table
from nas.genotype import notation
from nas.space import Space
from pipeline.params import Params
from pipeline.runs.cache import Source, open_cache
from pipeline.runs.jobs import JobError, failures
from pipeline.runs.keys import settings_of
from pipeline.runs.looks import mark
from pipeline.runs.retrain import train
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Question:
    """Which architectures, and how often each is trained. sample: so many of them; 0: all."""

    cells: int
    steps: int
    kind: nas.config.SpaceName
    seeds: tuple[int, ...]
    sample: int = 0

    def space(self, layers: Sequence[str], operations: tuple[str, ...]) -> Space:
        """The space over a cache's layers."""
        return Space(tuple(layers), self.cells, self.steps, self.kind, operations)


def run_oracle(workspace: Workspace, params: Params, question: Question) -> OracleTable:
    """The table of a space, without certificates; writes oracle.json and oracle.csv.

    An architecture one of whose trainings failed has no entry; raises JobError when none is left.
    """
    source = Source.of(workspace, params)
    layers = list(source.windows().features)
    space = question.space(layers, params.search.operations)
    genotypes = space.sample(question.sample, params.seed) if question.sample else space.distinct()
    well, failed = train_all("oracle", source, genotypes, question.seeds)
    if not well:
        raise JobError(f"oracle: a training of every architecture failed; the first one: {failed[0].reason}")
    index = open_cache(workspace, params).index
    mark(workspace, index, "oracle", source.identity, asdict(question), settings_of(params.retrain))
    entries = rank(well)
    table = OracleTable(
        cache=source.identity,
        space=question.kind,
        layers=layers,
        cells=question.cells,
        steps=question.steps,
        complete=not question.sample,
        seeds=list(question.seeds),
        retrain=params.retrain.model_dump(mode="json"),
        noise=_noise(entries),
        luck=luck(np.array([entry.test_aucs for entry in entries])),
        entries=entries,
        failed=failed,
    )
    write_oracle(workspace, table)
    return table


def write_oracle(workspace: Workspace, table: OracleTable) -> None:
    """Replaces oracle.json and oracle.csv."""
    write_text(workspace.oracle / "oracle.json", table.model_dump_json(indent=1) + "\n")
    columns = {"genotype", "test_aucs", "val_aucs"}
    rows = pd.DataFrame([entry.model_dump(exclude=columns) for entry in table.entries])
    write_table(workspace.oracle / "oracle.csv", rows)


def train_all(
    title: str, source: Source, genotypes: Sequence[nas.Genotype], seeds: Sequence[int]
) -> tuple[dict[nas.Genotype, list[TrainingRow]], list[Failure]]:
    """({genotype: its trainings, one per seed} of those without a failure, the failures)."""
    trained = train(title, source, [(genotype, seed) for genotype in genotypes for seed in seeds], test=True)
    failed = failures((notation(genotype), row) for (genotype, _), row in trained.items())
    well = {genotype: [trained[genotype, seed] for seed in seeds] for genotype in genotypes}
    return {genotype: rows for genotype, rows in well.items() if not any(row.failed for row in rows)}, failed


def rank(trained: Mapping[nas.Genotype, Sequence[TrainingRow]]) -> list[OracleEntry]:
    """One entry per architecture, the best mean test AUC first."""
    entries = []
    for genotype, rows in trained.items():
        val, test = ([getattr(row, name) for row in rows] for name in ("val_auc", "test_auc"))
        entries.append(
            OracleEntry(
                rank=1,
                architecture=notation(genotype),
                genotype=genotype.model_dump(mode="json"),
                parameters=rows[0].parameters,
                val_auc=float(np.mean(val)),
                val_auc_std=deviation(val),
                test_auc=float(np.mean(test)),
                test_auc_std=deviation(test),
                test_aucs=test,
                val_aucs=val,
            )
        )
    entries.sort(key=lambda entry: (-entry.test_auc, entry.architecture))
    return [entry.model_copy(update={"rank": place}) for place, entry in enumerate(entries, 1)]


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation; None for one value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None


def luck(test: NDArray[np.float64]) -> float | None:
    """How much of the best mean is luck: that of many architectures that are equally good would lead the others, too.

    test: (architectures, seeds) AUC. In turn, all seeds but one choose the best, and the one left out says what it is
    worth. None for one seed.
    """
    seeds = test.shape[1]
    if seeds < 2:
        return None
    others = (test.sum(axis=1, keepdims=True) - test) / (seeds - 1)
    chosen = others.argmax(axis=0)
    return float(test.mean(axis=1).max() - test[chosen, np.arange(seeds)].mean())


def _noise(entries: Sequence[OracleEntry]) -> float | None:
    squares = [entry.test_auc_std**2 for entry in entries if entry.test_auc_std is not None]
    return float(np.sqrt(np.mean(squares))) if squares else None
