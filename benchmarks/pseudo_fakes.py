"""`python -m benchmarks.pseudo_fakes`: does real speech, smoothed over time and called fake, help on what was not seen?

Every real window's sound is smoothed (`smoothed`) and goes through the cache's own audio backbone. Logistic regressions
are trained on each fold of a protocol, with and without those of its train clips, which stand for a third of the fakes.
`--work` and `--params` name a finished cache with one audio backbone, which is only read; `--protocol` is one of
`bmnas protocol`, or a file. Prints the AUCs, and what the pseudo-fakes add, with its 95 % interval over people. What
came out stands in docs/carry-over.md.
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

from cache_schemas.files import digest
from cache_schemas.manifest import read_manifest
from cache_schemas.media import SPECTROGRAMS
from cache_schemas.shards import read_rows
from pipeline.backbones import load_backbone
from pipeline.experiments.folds import Fold, folds_of, read_protocol
from pipeline.features.compute import run_backbone
from pipeline.features.views import smoothed
from pipeline.features.windows import window_sources
from pipeline.params import Params, load_params
from pipeline.runs.cache import open_cache
from pipeline.sound.stage import compute_spectrogram, from_pcm
from pipeline.workspace import Workspace

Floats = NDArray[np.float64]
C = 0.001
SHARE = 1 / 3
"""Of the fakes' weight, that the pseudo-fakes get."""
DRAWS = 2
PEOPLE_DRAWS = 2000


def statistics_of(layers: Sequence[torch.Tensor]) -> Floats:
    """(N, D): mean, maximum and deviation over L of layers (N, L, C_in) each."""
    found = [part for x in layers for part in (x.float().mean(1), x.float().amax(1), x.float().std(1))]
    return np.asarray(torch.cat(found, dim=1).numpy(), np.float64)


def pseudo_sounds(workspace: Workspace, params: Params, index: pd.DataFrame) -> Floats:
    """(DRAWS, N, D) of the smoothed sound of every window of the cache that is real; of others NaN."""
    sources = {(s.clip.clip_id, round(s.start_s, 6)): s for s in window_sources(workspace, params)}
    backbone = load_backbone("audio", params.features.audio[0], "cpu")
    places, spectrograms = np.flatnonzero(index["label"] == 0), []
    for clip_id, start in index.loc[places, ["clip_id", "start_s"]].itertuples(index=False):
        shard, row = sources[clip_id, round(start, 6)].spectrogram
        waveform = torch.from_numpy(from_pcm(read_rows(shard, SPECTROGRAMS, [row], only=["waveform"])["waveform"][0]))
        for draw in range(DRAWS):
            random = np.random.default_rng(int(digest("smoothed", clip_id, start, draw), 16))
            spectrograms.append(compute_spectrogram(smoothed(waveform, random)[None], params.spectrograms)[0])
    features = statistics_of(list(run_backbone(backbone, spectrograms, length=params.features.length).values()))
    found = np.full((DRAWS, len(index), features.shape[1]), np.nan)
    found[:, places] = features.reshape(len(places), DRAWS, -1).swapaxes(0, 1)
    return found


def scores(x: Floats, labels: NDArray[np.int64], side: NDArray[np.object_], pseudo: Floats | None) -> Floats:
    """P(fake) (N,) of a logistic regression on the rows that train; pseudo: (DRAWS, N, D), NaN where there is none."""
    train = np.flatnonzero(side == "train")
    centre, scale = x[train].mean(0), np.maximum(x[train].std(0), 1e-6)
    rows, y = x[train], labels[train]
    weights = len(y) / 2 / np.bincount(y, minlength=2)[y]
    if pseudo is not None:
        extra = pseudo[:, train[y == 0]].reshape(-1, x.shape[1])
        weights[y == 1] *= 1 - SHARE
        weights = np.concatenate([weights, np.full(len(extra), SHARE * len(y) / 2 / len(extra))])
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
    index, features = cache.index, cache.load()
    visual, audio = (
        statistics_of([x for name, x in features.items() if name.startswith(m)]) for m in ("visual/", "audio/")
    )
    sounds = pseudo_sounds(workspace, params, index)
    heads = {
        "all layers": (np.hstack([visual, audio]), np.concatenate([np.stack([visual] * DRAWS), sounds], axis=2)),
        "audio layers": (audio, sounds),
    }
    there = set(index["clip_id"])
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in there]
    place = index["clip_id"].map({clip.clip_id: i for i, clip in enumerate(clips)}).to_numpy()
    found = folds_of(read_protocol(given.protocol)[1], clips, seed=params.seed)
    tests: dict[str, list[pd.DataFrame]] = {name: [] for name in heads}
    for fold in (each for each in found if isinstance(each, Fold)):
        side, tested = (np.array(of, object)[place] for of in (fold.split, fold.tested_as))
        for name, (x, pseudo) in heads.items():
            rows = {
                key: scores(x, index["label"].to_numpy(), side, of) for key, of in (("without", None), ("with", pseudo))
            }
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
