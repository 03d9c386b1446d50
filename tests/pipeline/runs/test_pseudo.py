"""Pseudo-fakes in what is trained, chosen and tested: learnt from on the train side of every fold, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nas
from cache_schemas.features.garbage import collect_garbage
from cache_schemas.features.upkeep import verify
from cache_schemas.runs import FinishedRuns, RunRow
from pipeline.experiments.folds import BUILT_IN, Fold, folds_of
from pipeline.experiments.methods import methods
from pipeline.params import Params
from pipeline.runs import cache as runs_cache
from pipeline.runs.cache import Source, Windows, cache_identity, clip_index, open_cache
from pipeline.runs.evaluate import evaluate
from pipeline.runs.jobs import Batch, Job, do
from pipeline.runs.retrain import train
from pipeline.workspace import Workspace
from tests.pipeline.run_fixture import LAYERS, clip_of, make_index, make_workspace

N, P = 24, 2
CATEGORIES = ("RVRA", "FVRA", "RVFA", "RV-")


def params_with(pseudo: int) -> Params:
    compute = {"workers": 1, "device": "cpu"}
    return Params.model_validate({"features": {"pseudo": pseudo}, "compute": compute, "seeds": [0]})


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Workspace]:
    """The same windows of real, fake and silent clips of three sources, without and with two pseudo-fakes each."""
    index = make_index(subjects=15, categories=CATEGORIES)
    index["dataset"] = [f"source {int(subject[1:]) % 3}" for subject in index["subject_id"]]
    return {
        pseudo: make_workspace(tmp_path_factory.mktemp(f"with{pseudo}"), index, seeds=(0,), pseudo=pseudo)
        for pseudo in (0, P)
    }


def windows_of(workspace: Workspace, pseudo: int) -> Windows:
    return Source.of(workspace, params_with(pseudo)).windows()


def made_up(split: Sequence[str], fakes: int = 2) -> Windows:
    """N windows, of which window i holds the number i: of every three one is real; two pseudo-fakes: 100 d + i."""
    labels = (np.arange(N) % (1 + fakes) > 0).astype(np.int64)
    of = np.tile(np.flatnonzero(labels == 0), P)
    draws = np.repeat(np.arange(1, P + 1), len(of) // P)
    features = {"audio/a": torch.arange(float(N)).view(N, 1, 1)}
    pseudo = {"audio/a": torch.from_numpy(100.0 * draws + of).float().view(-1, 1, 1)}
    return Windows(features, labels, list(split), {}, pseudo, of)


sides = st.lists(st.sampled_from(["train", "val", "test", ""]), min_size=N, max_size=N)


@given(sides, sides)
def test_only_those_of_the_folds_own_train_windows_are_behind_its_windows(made_for: list[str], fold: list[str]) -> None:
    """Whatever the cache's own split, and through a second fold's windows taken out of a first one's."""
    taken = made_up(made_for).taken(fold)
    own, trained = len(taken.labels), taken.to_train_on(["audio/a"])
    numbers = trained.features["audio/a"].flatten().tolist()
    assert numbers[:own] == [i for i, side in enumerate(fold) if side]
    assert trained.labels[:own].tolist() == [int(i % 3 > 0) for i, side in enumerate(fold) if side]
    assert trained.split[:own] == [side for side in fold if side]
    behind = [int(number) % 100 for number in numbers[own:]]
    assert {fold[i] for i in behind} <= {"train"}
    assert all(i % 3 == 0 and number >= 100 for i, number in zip(behind, numbers[own:], strict=True))
    assert set(trained.split[own:]) <= {"train"}
    assert trained.labels[own:].all()
    again = taken.taken(["train" if side == "train" else "" for side in taken.split])
    left = again.to_train_on(["audio/a"]).features["audio/a"].flatten()[len(again.labels) :]
    assert {int(number) % 100 for number in left.tolist()} <= set(behind)


def test_they_are_a_third_of_trains_fakes_each_as_often_as_the_next() -> None:
    split = ["train"] * 18 + ["val"] * 3 + ["test"] * 3
    trained = made_up(split).to_train_on(["audio/a"])
    assert int((trained.labels[N:] == 1).sum()) * 2 == 12  # of the windows of train two in three are fake
    assert len(set(trained.features["audio/a"].flatten().tolist()[N:])) == 6
    many = made_up(["train"] * N, fakes=11).to_train_on(["audio/a"])  # 22 fakes and two real windows: eleven from four
    counts = np.unique(many.features["audio/a"].flatten()[N:].numpy(), return_counts=True)[1]
    assert sorted(counts) == [2, 3, 3, 3]


def test_who_does_not_hear_learns_from_none_of_them(both: dict[int, Workspace]) -> None:
    """Their pictures are real: called fake, they would contradict the windows that they are made of."""
    visual = [layer for layer in LAYERS if layer.startswith("visual/")]
    cells = [{"x": visual[0], "y": visual[1], "steps": [{"x": "x", "y": "y", "operation": "Sum"}]}]
    looks = nas.Genotype.model_validate({"cells": cells})
    hears = nas.Genotype.model_validate({"cells": [{**cells[0], "y": "audio/net.blocks.0"}]})
    found = {}
    for pseudo, workspace in both.items():
        source = Source.of(workspace, params_with(pseudo))
        trained = train("trainings", source, [(looks, 0), (hears, 0)], test=True)
        designs = methods(source.windows(), source.params)
        (design,) = designs["visual only, MLP"].run(source.windows(), [0])
        own = len(source.windows().labels)
        found[pseudo] = [trained[looks, 0].curves, design.scores[:own].tolist(), trained[hears, 0].curves]
    assert [one == other for one, other in zip(*found.values(), strict=True)] == [True, True, False]


def test_every_view_of_one_is_itself() -> None:
    windows = made_up(["train"] * N)
    viewed = replace(windows, features={name: torch.stack([x, x + 1000]) for name, x in windows.features.items()})
    x = viewed.to_train_on(LAYERS).features["audio/a"]
    assert x.shape[:2] == (2, N + 8)
    assert torch.equal(x[0, N:], x[1, N:])
    assert torch.equal(x[1, :N], windows.features["audio/a"] + 1000)


@pytest.mark.parametrize("name", BUILT_IN)
def test_nobody_of_a_folds_other_sides_is_in_one_of_its_pseudo_fakes(name: str, both: dict[int, Workspace]) -> None:
    index, windows = clip_index(both[P], open_cache(both[P], params_with(P))), windows_of(both[P], P)
    clips = [clip_of(row) for row in index.drop_duplicates("clip_id").to_dict("records")]
    clips = [replace(clip, group=clip.dataset) for clip in clips]
    whose = dict(zip(windows.pseudo["audio/net.blocks.0"][:, 0, 0].tolist(), windows.pseudo_of.tolist(), strict=True))
    folds = [fold for fold in folds_of(BUILT_IN[name], clips, seed=0) if isinstance(fold, Fold)]
    assert folds
    for fold in folds:
        side = dict(zip([clip.clip_id for clip in clips], fold.split, strict=True))
        taken = windows.taken([side[clip_id] for clip_id in index["clip_id"]])
        drawn = taken.to_train_on(LAYERS).features["audio/net.blocks.0"][len(taken.labels) :, 0, 0].tolist()
        assert drawn
        people = {index["subject_id"].iloc[whose[x]] for x in drawn}
        assert not people & {clip.subject_id for clip in clips if side[clip.clip_id] in ("val", "test")}
        assert {side[index["clip_id"].iloc[whose[x]]] for x in drawn} == {"train"}


def test_nobody_who_reads_the_index_or_the_windows_sees_one(both: dict[int, Workspace]) -> None:
    caches = {pseudo: open_cache(workspace, params_with(pseudo)) for pseudo, workspace in both.items()}
    pd.testing.assert_frame_equal(caches[0].index, caches[P].index)
    for views in (False, True):
        ours, theirs = (cache.load(views=views) for cache in caches.values())
        assert ours.keys() == theirs.keys() == LAYERS.keys()
        assert all(torch.equal(x, theirs[layer]) for layer, x in ours.items())
    plain, windows = (windows_of(workspace, pseudo) for pseudo, workspace in both.items())
    assert windows.split == plain.split
    assert (windows.labels == plain.labels).all()
    assert plain.to_train_on(LAYERS) is plain
    real = np.flatnonzero((caches[P].index["label"] == 0) & caches[P].index["has_audio"])
    assert windows.pseudo_of.tolist() == [*real, *real]
    for layer, x in windows.pseudo.items():
        same = [torch.equal(row, windows.features[layer][i]) for row, i in zip(x, windows.pseudo_of, strict=True)]
        assert all(same) if layer.startswith("visual/") else not any(same)


@pytest.mark.usefixtures("few_draws")
def test_evaluate_scores_the_same_windows_of_the_same_clips(both: dict[int, Workspace]) -> None:
    """What probes learn on train is another, and of the same rows; all else is the same to the last byte."""
    scores = {}
    for pseudo, workspace in both.items():
        evaluate(workspace, params_with(pseudo), device="cpu")
        scores[pseudo] = pd.read_csv(workspace.evaluate / "scores.csv")
    for name in ("clips.csv", "unlike.safetensors"):
        assert (both[0].evaluate / name).read_bytes() == (both[P].evaluate / name).read_bytes(), name
    pd.testing.assert_frame_equal(*(of.drop(columns="score") for of in scores.values()))
    moved = scores[0].loc[scores[0]["score"] != scores[P]["score"], "system"]
    assert set(moved) == {"logistic regression, all layers", "SVM, all layers"}


def test_without_any_nothing_is_named_otherwise(both: dict[int, Workspace]) -> None:
    """As before there were any: the index, the cache, and what is done over it."""
    cache = open_cache(both[0], params_with(0))
    assert "pseudo" not in json.dumps(cache.index_attributes.params)
    assert params_with(0).features.naming() == {
        k: v for k, v in params_with(P).features.naming().items() if k != "pseudo"
    }
    source = Source.of(both[0], params_with(0))
    assert source.naming == [source.identity] == [cache_identity(cache)]


def test_other_pseudo_fakes_or_another_share_of_them_are_other_runs(
    both: dict[int, Workspace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def done(pseudo: int) -> int:
        runs: list[int] = []

        def compute(source: Source, batch: Batch[int]) -> list[RunRow]:
            runs.extend(batch.runs)
            return [RunRow(seed=run, seconds=1.0) for run in batch.runs]

        source, finished = Source.of(both[pseudo], params_with(pseudo)), FinishedRuns(tmp_path, RunRow)
        do(Job("work", source, [1, 2], lambda run: run, compute, lambda run: 0, finished))
        return len(runs)

    assert [done(0), done(P), done(0), done(P)] == [2, 2, 0, 0]
    monkeypatch.setattr(runs_cache, "code_version", lambda *_: "other code")
    assert [done(0), done(P)] == [0, 2]


def test_upkeep_knows_them(both: dict[int, Workspace]) -> None:
    path = both[P].features
    before = cache_identity(open_cache(both[P], params_with(P)))
    assert not verify(path).problems
    collect_garbage(path, older_than_seconds=0)
    assert not verify(path).problems
    assert cache_identity(open_cache(both[P], params_with(P))) == before
