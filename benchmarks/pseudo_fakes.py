"""`python -m benchmarks.pseudo_fakes`: does real speech, smoothed over time and called fake, help on what was not seen?

Logistic regressions are trained on each fold of a protocol, with and without the pseudo-fakes of its train clips, which
stand for a third of the fakes. `--work` and `--params` name a finished cache that has some (`features.pseudo`);
`--protocol` is one of `bmnas protocol`, or a file. Prints the AUCs, and what the pseudo-fakes add, with its 95 %
interval over people. What came out stands in docs/carry-over.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from cache_schemas.manifest import read_manifest
from pipeline.experiments.folds import Fold, folds_of, read_protocol
from pipeline.params import load_params
from pipeline.runs.cache import PSEUDO_SHARE, open_cache
from pipeline.workspace import Workspace

Floats = NDArray[np.float64]
C = 0.001
PEOPLE_DRAWS = 2000


def statistics_of(layers: Sequence[torch.Tensor]) -> Floats:
    """(N, D): mean, maximum and deviation over L of layers (N, L, C_in) each."""
    found = [part for x in layers for part in (x.float().mean(1), x.float().amax(1), x.float().std(1))]
    return np.asarray(torch.cat(found, dim=1).numpy(), np.float64)


def scores(x: Floats, labels: NDArray[np.int64], side: NDArray[np.object_], extra: Floats) -> Floats:
    """P(fake) (N,) of a logistic regression on the rows that train, and on the pseudo-fakes `extra` (M, D)."""
    train = np.flatnonzero(side == "train")
    centre, scale = x[train].mean(0), np.maximum(x[train].std(0), 1e-6)
    rows, y = x[train], labels[train]
    weights = len(y) / 2 / np.bincount(y, minlength=2)[y]
    if len(extra):
        weights[y == 1] *= 1 - PSEUDO_SHARE
        weights = np.concatenate([weights, np.full(len(extra), PSEUDO_SHARE * len(y) / 2 / len(extra))])
        rows, y = np.concatenate([rows, extra]), np.concatenate([y, np.ones(len(extra), y.dtype)])
    fitted = LogisticRegression(C=C, max_iter=400).fit((rows - centre) / scale, y, sample_weight=weights)
    return np.asarray(expit(fitted.decision_function((x - centre) / scale)))


def wins(score: Floats, labels: NDArray[np.int64], drawn: Floats) -> tuple[Floats, Floats]:
    """(pairs of a fake and a real clip that are in order, all pairs), (draws,) each; drawn: (draws, clips)."""
    fake, real = labels == 1, labels == 0
    above = np.sign(score[fake][:, None] - score[real][None]) / 2 + 0.5
    return ((drawn[:, fake] @ above) * drawn[:, real]).sum(1), drawn[:, fake].sum(1) * drawn[:, real].sum(1)


def measured(tests: pd.DataFrame, column: str) -> dict[str, Floats]:
    """{measure: (1 + draws,)}, the first being of the people as they are; tests: a row a clip tested."""
    _, member = np.unique(tests["person"], return_inverse=True)
    people = int(member.max()) + 1
    draws = np.random.default_rng(0).multinomial(people, np.full(people, 1 / people), size=PEOPLE_DRAWS)
    counts = np.vstack([np.ones(people), draws])[:, member]

    def of(by: list[str]) -> list[tuple[Floats, Floats]]:
        groups = tests.groupby(by).indices.values()
        labels, score = tests["label"].to_numpy(), tests[column].to_numpy()
        return [wins(score[g], labels[g], counts[:, g]) for g in groups if len(np.unique(labels[g])) == 2]

    inside, tested = of(["tested_on", "dataset"]), of(["tested_on"])
    with np.errstate(invalid="ignore"):
        mean = np.nanmean([won / pairs for won, pairs in tested], axis=0)
    pairs = sum(p for _, p in inside)
    return {"pairs of one source": sum(w for w, _ in inside) / pairs, f"mean of {len(tested)} tests": mean}


def main() -> None:
    """Measures both heads, prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--protocol", default="leave-one-source-out")
    given = parser.parse_args()
    workspace, params = Workspace(given.work), load_params(given.params)
    cache = open_cache(workspace, params)
    if not cache.pseudo:
        parser.error(f"{cache.path} has no pseudo-fakes: set features.pseudo: 2 and run `bmnas features`")
    index, features = cache.index, cache.load()
    of, pseudo = cache.load_pseudo()
    heads = {
        title: [statistics_of([x for name, x in rows.items() if name.startswith(m)]) for rows in (features, pseudo)]
        for title, m in (("all layers", ""), ("audio layers", "audio/"))
    }
    there = set(index["clip_id"])
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in there]
    place = index["clip_id"].map({clip.clip_id: i for i, clip in enumerate(clips)}).to_numpy()
    found = folds_of(read_protocol(given.protocol)[1], clips, seed=params.seed)
    tests: dict[str, list[pd.DataFrame]] = {name: [] for name in heads}
    for fold in (each for each in found if isinstance(each, Fold)):
        side, tested = (np.array(of, object)[place] for of in (fold.split, fold.tested_as))
        for name, (x, made) in heads.items():
            extra = {"without": made[:0], "with": made[side[of] == "train"]}
            rows = {key: scores(x, index["label"].to_numpy(), side, those) for key, those in extra.items()}
            of_clip = index[["clip_id", "dataset", "label"]].assign(
                person=index["subject_id"], tested_on=tested, **rows
            )
            tests[name].append(
                of_clip[side == "test"].groupby(["clip_id", "tested_on", "dataset", "person"], as_index=False).mean()
            )
    table = Table("head", "measure", "without", "with", "difference (95 % over people)", title=given.protocol)
    for name, parts in tests.items():
        both = [measured(pd.concat(parts, ignore_index=True), column) for column in ("without", "with")]
        for measure, without in both[0].items():
            added = both[1][measure] - without
            low, high = np.nanpercentile(added[1:], [2.5, 97.5])
            difference = f"{added[0]:+.3f} ({low:+.3f} to {high:+.3f})"
            table.add_row(name, measure, f"{without[0]:.3f}", f"{both[1][measure][0]:.3f}", difference)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
