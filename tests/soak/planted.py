"""Recovery of planted problems, per space and estimator: `python -m tests.soak.planted` (make soak-planted).

Each problem of tests/nas/problems.py is drawn several times with different layers and directions; the searches of all
estimators and seeds on one drawing run as one batch. A run recovers the problem if its genotype reads what carries
the label (for `attention` and `gate`: with an operation that fits), or else if the network trained on its genotype
reaches what the planted architecture's does (median of three, trained beside it; see CLOSE). The table is printed, and
its rows are written as CSV; a drawing that stands in the file already is not searched again.
"""

import argparse
import csv
import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import torch

import nas
from nas.choices import ArchitectureParameters
from nas.random import Streams
from nas.scoring import area_under_roc
from nas.space import Space
from tests.nas.problems import PROBLEMS, Problem

ESTIMATORS = ("st_gumbel", "gumbel_rao", "softmax", "gumbel", "random")
SPACES = ("slots", "bmnas")
COLUMNS = ("space", "problem", "drawing", "estimator", "seed", "reads", "reaches", "test_auc", "planted_auc")
CLOSE = 0.9
"""`reaches`: test AUC - 0.5 is at least this share of what the planted architecture's network has."""
PLANTED_RUNS = 3


def search_all(problem: Problem, space: str, estimators: Sequence[str], seeds: Sequence[int]) -> list[nas.Genotype]:
    """Return the genotypes of all estimators and seeds on one problem, estimator by estimator."""
    searched = [name for name in estimators if name != "random"]
    configs = [problem.config(space=space, estimator=estimator) for estimator in searched for _ in seeds]
    given = (problem.features, problem.labels, problem.split)
    found = [r.genotype for r in nas.search(*given, configs, list(seeds) * len(searched))] if configs else []
    blocks = {name: found[i * len(seeds) : (i + 1) * len(seeds)] for i, name in enumerate(searched)}
    return [g for name in estimators for g in (blocks[name] if name in blocks else drawn(problem, seeds))]


def drawn(problem: Problem, seeds: Sequence[int]) -> list[nas.Genotype]:
    """Return one architecture per seed, drawn at random."""
    cpu = torch.device("cpu")
    space = Space(tuple(problem.features), 2, 2)
    return ArchitectureParameters(space, seeds).derive(Streams(seeds, "random", cpu))


def measure(problem: Problem, space: str, estimators: Sequence[str], seeds: Sequence[int]) -> list[dict[str, object]]:
    """Return one row per estimator and seed."""
    genotypes = search_all(problem, space, estimators, seeds)
    reads = [problem.fits(genotype) for genotype in genotypes]
    doubtful = [i for i, fits in enumerate(reads) if not fits]
    auc = test_aucs(problem, [problem.planted] * PLANTED_RUNS + [genotypes[i] for i in doubtful]) if doubtful else []
    planted = sorted(auc[:PLANTED_RUNS])[PLANTED_RUNS // 2] if doubtful else math.nan
    of = dict(zip(doubtful, auc[PLANTED_RUNS:], strict=True))
    return [
        {
            "estimator": estimators[i // len(seeds)],
            "seed": seeds[i % len(seeds)],
            "reads": reads[i],
            "reaches": i in of and of[i] - 0.5 >= CLOSE * (planted - 0.5),
            "test_auc": of.get(i, math.nan),
            "planted_auc": planted,
        }
        for i in range(len(genotypes))
    ]


def test_aucs(problem: Problem, genotypes: Sequence[nas.Genotype]) -> list[float]:
    """Return the area under the ROC curve on the test split of a network trained on each genotype."""
    epochs = problem.epochs
    config = nas.RetrainConfig(channels=16, epochs=epochs, patience=epochs, restart_epochs=epochs)
    seeds = range(len(genotypes))
    trained = nas.retrain(problem.features, problem.labels, problem.split, genotypes, config, seeds)
    test = torch.tensor([part == "test" for part in problem.split])
    return area_under_roc(torch.stack([r.scores[test] for r in trained]), problem.labels[test]).tolist()


def table(rows: Sequence[dict[str, str]]) -> str:
    """Return the recovered runs of all, per space, problem and estimator, as a Markdown table."""
    estimators = [name for name in ESTIMATORS if any(row["estimator"] == name for row in rows)]
    lines = [f"| space | problem | {' | '.join(estimators)} |", "| --- " * (2 + len(estimators)) + "|"]
    for space, problem in dict.fromkeys((row["space"], row["problem"]) for row in rows):
        cells = []
        for estimator in estimators:
            own = [r for r in rows if (r["space"], r["problem"], r["estimator"]) == (space, problem, estimator)]
            recovered = sum("True" in (row["reads"], row["reaches"]) for row in own)
            cells.append(f"{recovered}/{len(own)} ({sum(row['reads'] == 'True' for row in own)})")
        lines.append(f"| {space} | {problem} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", "recovered / runs (those that read what carries the label with an operation that fits)"]
    )


def main() -> None:
    """Search, train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--spaces", nargs="+", default=list(SPACES), choices=SPACES)
    parser.add_argument("--estimators", nargs="+", default=list(ESTIMATORS), choices=ESTIMATORS)
    parser.add_argument("--drawings", nargs="+", type=int, default=[1, 2, 3, 4], help="0 is for development")
    parser.add_argument("--seeds", type=int, default=5, help="searches per drawing")
    parser.add_argument("--out", type=Path, default=Path("work/soak/planted.csv"))
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(given.out.open(encoding="utf-8"))) if given.out.exists() else []
    done = {(row["space"], int(row["drawing"]), row["problem"]) for row in rows}
    asked = itertools.product(given.spaces, given.drawings, given.problems)
    for space, drawing, name in (key for key in asked if key not in done):
        found = measure(PROBLEMS[name](drawing), space, given.estimators, range(given.seeds))
        own = {"space": space, "problem": name, "drawing": drawing}
        rows += [{key: str(value) for key, value in (own | row).items()} for row in found]
        with given.out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(table(rows[-len(found) :]).splitlines()[2], flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
