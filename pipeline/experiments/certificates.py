"""How close search methods come to the truth of `bmnas oracle`: rank and regret of what they pick, Kendall's tau."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

import nas
from cache_schemas.files import write_text
from cache_schemas.oracle import EXHAUSTIVE, FIXED, RANDOM, Certificate, OracleTable, Pick
from cache_schemas.runs import SearchRow
from cache_schemas.tables import write_table
from nas.baselines import join_last_layers
from nas.config import EstimatorName, SpaceName
from nas.genotype import notation
from nas.names import DEFAULT_OPERATIONS
from nas.space import canonical
from pipeline.experiments.oracle import deviation, rank, train_all, write_oracle
from pipeline.figures.experiments import oracle_svg, standalone
from pipeline.params import Params
from pipeline.runs.cache import Source
from pipeline.runs.search import search_all
from pipeline.workspace import Workspace

METHODS: tuple[EstimatorName, ...] = ("st_gumbel", "gumbel_rao", "softmax", "gumbel")
BEST_SHARE = 0.05
JUDGED = 400
"""Architectures that a search's shared weights score at most, evenly over the true ranks: tau needs no more, and a
space of thousands would cost more than its search."""


@dataclass(frozen=True)
class Truth:
    """Architectures with their known quality: the table's first, then those that were trained to place a pick."""

    names: list[str]
    """notation of the canonical genotype"""
    test: NDArray[np.float64]
    """(n,) mean test AUC over the seeds"""
    val: NDArray[np.float64]
    """(n, seeds)"""
    ranked: int
    """how many of them are the table's"""

    def pick(self, method: str, space: str, seed: int, name: str, tau: float | None) -> Pick:
        """The pick with its rank among the table's architectures."""
        quality = float(self.test[self.names.index(name)])
        table = self.test[: self.ranked]
        place = 1 + int((table > quality).sum())
        return Pick(
            method=method,
            space=space,
            seed=seed,
            architecture=name,
            rank=place,
            rank_share=place / self.ranked,
            test_auc=quality,
            regret=float(table.max()) - quality,
            kendall_tau=tau,
        )


def certify(workspace: Workspace, params: Params, table: OracleTable, seeds: Sequence[int]) -> OracleTable:
    """The table with its certificates; writes certificates.csv, methods.csv, oracle.json and the figure."""
    source = Source.of(workspace, params)
    judged = [nas.Genotype.model_validate(table.entries[place].genotype) for place in _judged(table)]
    base = params.search.model_copy(update={"cells": table.cells, "steps": table.steps})
    searches = [
        (base.model_copy(update={"space": space, "estimator": estimator}), seed)
        for space in get_args(SpaceName)
        for estimator in METHODS
        for seed in seeds
    ]
    rows = [row for row in search_all("certificates", source, searches, judged) if row.found is not None]
    fixed = fixed_fusions(table.layers, table.cells, table.steps, params.search.operations)
    truth, training_seconds = _truth(source, table, [*map(_picked, rows), *fixed])
    rows = [row for row in rows if notation(_picked(row)) in truth.names]
    fixed = [genotype for genotype in fixed if notation(genotype) in truth.names]
    picks = _searched(truth, rows, table)
    cost = max(1, round(float(np.mean([row.seconds for row in rows])) / training_seconds)) if rows else 1
    picks += _random_search(truth, cost, table, seeds)
    picks += _fixed(truth, [notation(genotype) for genotype in fixed][:cost], table)
    picks += _exhaustive(truth, table)
    trainings = {RANDOM: cost, FIXED: min(cost, len(fixed)), EXHAUSTIVE: truth.ranked}
    costs = {(method, table.space): float(count) for method, count in trainings.items()}
    for row in rows:
        costs.setdefault(
            _method(row), float(np.mean([r.seconds for r in rows if _method(r) == _method(row)]) / training_seconds)
        )
    certified = table.model_copy(update={"picks": picks, "certificates": summarise(picks, costs)})
    write_oracle(workspace, certified)
    _write(workspace, certified)
    return certified


def fixed_fusions(
    layers: Sequence[str], cells: int, steps: int, operations: Sequence[str] = DEFAULT_OPERATIONS
) -> list[nas.Genotype]:
    """Fusions that nobody searched, one per operation: cells of the last layers, all steps alike; canonical."""
    if min(sum(name.startswith(f"{modality}/") for name in layers) for modality in ("visual", "audio")) < cells:
        return []
    alike = ((nas.Step(x="x", y="y", operation=name),) * steps for name in operations)
    return [canonical(join_last_layers(layers, of_cell, cells)) for of_cell in alike]


def summarise(picks: Sequence[Pick], costs: dict[tuple[str, str], float]) -> list[Certificate]:
    """One certificate per method and space."""
    found = []
    for method, space in dict.fromkeys((pick.method, pick.space) for pick in picks):
        of_method = [pick for pick in picks if (pick.method, pick.space) == (method, space)]
        regrets = [pick.regret for pick in of_method]
        taus = [pick.kendall_tau for pick in of_method if pick.kendall_tau is not None]
        shares = [pick.rank_share for pick in of_method]
        found.append(
            Certificate(
                method=method,
                space=space,
                runs=len(of_method),
                median_rank=float(np.median([pick.rank for pick in of_method])),
                median_rank_share=float(np.median(shares)),
                in_best_5_percent=float(np.mean([share <= BEST_SHARE for share in shares])),
                mean_regret=float(np.mean(regrets)),
                regret_std=deviation(regrets),
                kendall_tau=float(np.mean(taus)) if taus else None,
                kendall_tau_std=deviation(taus),
                cost_trainings=costs[method, space],
            )
        )
    return found


def print_certificates(table: OracleTable, console: Console) -> None:
    """Nothing; prints one line a method, and the noise that regrets are to be compared with."""
    shown = Table(title="Picks of the search methods, by test AUC; regret: below the best architecture")
    for name in ("method", "space", "runs", "median rank", "of", "in best 5 %", "mean regret", "Kendall's tau", "cost"):
        shown.add_column(name, justify="left" if name in ("method", "space") else "right")
    for row in table.certificates:
        tau = "-" if row.kendall_tau is None else _spread(row.kendall_tau, row.kendall_tau_std)
        shown.add_row(
            row.method,
            row.space,
            str(row.runs),
            f"{row.median_rank:g}",
            str(len(table.entries)),
            f"{100 * row.in_best_5_percent:.0f} %",
            _spread(row.mean_regret, row.regret_std),
            tau,
            f"{row.cost_trainings:.1f}",
        )
    console.print(shown)
    console.print(
        f"cost: in trainings of one architecture. {EXHAUSTIVE}: what choosing on this val split can reach at most.",
        soft_wrap=True,
    )
    if table.noise is not None and table.luck is not None:
        console.print(
            f"Retraining noise: test AUC of one architecture varies by ± {table.noise:.4f} over training seeds "
            f"(± {table.noise / len(table.seeds) ** 0.5:.4f} for the mean of {len(table.seeds)}). {table.luck:.4f} of "
            "the best one's lead, where regret starts, is luck: gone in the trainings that did not choose it.",
            soft_wrap=True,
        )


def _spread(mean: float, std: float | None) -> str:
    return f"{mean:.3f}" + ("" if std is None else f" ± {std:.3f}")


def _method(row: SearchRow) -> tuple[str, str]:
    return str(row.settings["estimator"]), str(row.settings["space"])


def _picked(row: SearchRow) -> nas.Genotype:
    """What a search found, in canonical form."""
    assert row.found is not None  # noqa: S101 - the caller left out those that failed
    return canonical(nas.Genotype.model_validate(row.found.genotype))


def _truth(source: Source, table: OracleTable, picked: Sequence[nas.Genotype]) -> tuple[Truth, float]:
    """(the known qualities, mean seconds of a training); trains what methods picked outside the table.

    What fails to train is not among them: such a pick is left out.
    """
    known = {entry.architecture for entry in table.entries} | {failure.name for failure in table.failed}
    outside = [genotype for genotype in dict.fromkeys(picked) if notation(genotype) not in known]
    inside = [nas.Genotype.model_validate(entry.genotype) for entry in table.entries]
    trained, _ = train_all("oracle", source, [*inside, *outside], table.seeds)
    entries = [*table.entries, *(rank({genotype: trained[genotype]})[0] for genotype in outside if genotype in trained)]
    seconds = float(np.mean([row.seconds for of_genotype in trained.values() for row in of_genotype]))
    truth = Truth(
        [entry.architecture for entry in entries],
        np.array([entry.test_auc for entry in entries]),
        np.array([entry.val_aucs for entry in entries]),
        len(table.entries),
    )
    return truth, seconds


def _judged(table: OracleTable) -> NDArray[np.int64]:
    """Where in the table the architectures stand that shared weights score."""
    n = len(table.entries)
    return np.linspace(0, n - 1, min(n, JUDGED)).round().astype(np.int64)


def _searched(truth: Truth, rows: Sequence[SearchRow], table: OracleTable) -> list[Pick]:
    picks = []
    for row in rows:
        scores = np.array(row.scores, dtype=float)
        defined = np.isfinite(scores)
        tau = float(kendalltau(scores[defined], truth.test[_judged(table)][defined]).statistic)
        picks.append(truth.pick(*_method(row), row.seed, notation(_picked(row)), None if np.isnan(tau) else tau))
    return picks


def _random_search(truth: Truth, cost: int, table: OracleTable, seeds: Sequence[int]) -> list[Pick]:
    """Each seed trains `cost` random architectures once and takes the best val AUC."""
    picks = []
    for seed in seeds:
        source = np.random.default_rng(seed)
        drawn = source.choice(truth.ranked, size=min(cost, truth.ranked), replace=False)
        training = source.integers(truth.val.shape[1], size=len(drawn))
        best = drawn[np.argmax(truth.val[drawn, training])]
        picks.append(truth.pick(RANDOM, table.space, seed, truth.names[best], None))
    return picks


def _fixed(truth: Truth, names: Sequence[str], table: OracleTable) -> list[Pick]:
    """Each training seed takes the fixed fusion of the best val AUC."""
    if not names:
        return []
    places = [truth.names.index(name) for name in names]
    best = [names[int(np.argmax(truth.val[places, i]))] for i in range(truth.val.shape[1])]
    return [truth.pick(FIXED, table.space, seed, name, None) for seed, name in zip(table.seeds, best, strict=True)]


def _exhaustive(truth: Truth, table: OracleTable) -> list[Pick]:
    """Each training seed takes the architecture of the best val AUC of all: what a choice on val can reach at most.

    With one seed the training that is chosen is also the one that it is judged by, which flatters it.
    """
    picks = []
    for seed, val in zip(table.seeds, truth.val[: truth.ranked].T, strict=True):
        tau = float(kendalltau(val, truth.test[: truth.ranked]).statistic)
        picks.append(truth.pick(EXHAUSTIVE, table.space, seed, truth.names[int(val.argmax())], tau))
    return picks


def _write(workspace: Workspace, table: OracleTable) -> None:
    folder = workspace.oracle
    write_table(folder / "certificates.csv", pd.DataFrame([p.model_dump() for p in table.picks]))
    write_table(folder / "methods.csv", pd.DataFrame([c.model_dump() for c in table.certificates]))
    write_text(folder / "oracle.svg", standalone(oracle_svg(table)))
