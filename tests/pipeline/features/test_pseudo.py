"""Pseudo-fakes in the cache: of whom they are, what they are named by, and that who reads the index sees none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cache_schemas.features import FeatureCache
from cache_schemas.features.garbage import collect_garbage
from cache_schemas.features.upkeep import verify
from pipeline.features.stage import build_features
from pipeline.features.views import audio_view
from pipeline.params import Params
from pipeline.runs.cache import Source, cache_identity, clip_index, open_cache
from pipeline.runs.evaluate import evaluate
from pipeline.runs.retrain import run_retrain
from pipeline.runs.search import run_search
from pipeline.workspace import Workspace
from tests.pipeline.counting import LOG, logged
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips
from tests.pipeline.small_experiments import RETRAIN, SEARCH

CLIPS = clip_contents([f"clip{i:02d}" for i in range(20)])
SMALL = {"name": "tests.pipeline.counting:small", "weights": "seed:0"}


class Made:
    """The same clips, every other one's voice fake, with so many pseudo-fakes."""

    def __init__(self, folder: Path, pseudo: int) -> None:
        self.workspace = Workspace(folder / "work")
        write_clips(folder / "data", CLIPS)
        table = folder / "data" / "manifest.csv"
        first, *rows = table.read_text().splitlines()
        rows = [row.replace("real,real", "real,fake") if i % 2 else row for i, row in enumerate(rows)]
        table.write_text("\n".join([first, *rows]) + "\n")
        self.params = self.having(folder, pseudo)
        run_before_features(self.workspace, self.params)
        self.cache = build_features(self.workspace, self.params)

    @staticmethod
    def having(folder: Path, pseudo: int) -> Params:
        """The parameters with so many."""
        features = {"visual": [SMALL], "audio": [SMALL], "length": 4, "pseudo": pseudo}
        more = {"search": SEARCH, "retrain": RETRAIN, "seeds": [0], "split": {"val": 0.3, "test": 0.3}}
        return made_up_params(folder / "data", features=features, **more)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Made]:
    """Without, and with two a window."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG, str(tmp_path_factory.mktemp("log") / "counts"))
        return {pseudo: Made(tmp_path_factory.mktemp(f"with{pseudo}"), pseudo) for pseudo in (0, 2)}


def test_they_are_of_real_clips_in_their_sound_alone(both: dict[int, Made]) -> None:
    cache = both[2].cache
    of, features = cache.load_pseudo()
    real = np.flatnonzero(cache.index["label"] == 0)
    assert of.tolist() == [*real, *real]
    own = cache.load()
    for layer, x in features.items():
        same = [torch.equal(row, own[layer][i]) for i, row in zip(of, x, strict=True)]
        assert all(same) if layer.startswith("visual/") else not any(same)
    first, second = (features[layer].split(len(real)) for layer in features if layer.startswith("audio/"))
    assert not torch.equal(*first)
    assert not torch.equal(*second)


def test_nobody_who_reads_the_index_or_the_windows_sees_one(both: dict[int, Made]) -> None:
    without, having = both[0], both[2]
    pd.testing.assert_frame_equal(having.cache.index, without.cache.index)
    pd.testing.assert_frame_equal(*(clip_index(one.workspace, one.cache) for one in (having, without)))
    for views in (False, True):
        ours, theirs = (one.cache.load(views=views) for one in (having, without))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(x, theirs[layer]) for layer, x in ours.items())
    windows, plain = (Source.of(one.workspace, one.params).windows() for one in (having, without))
    assert windows.split == plain.split
    assert (windows.labels == plain.labels).all()
    assert plain.to_train_on is plain


def test_evaluate_scores_the_same_windows_of_the_same_clips(both: dict[int, Made]) -> None:
    tables = []
    for one in both.values():
        run_search(one.workspace, one.params)
        run_retrain(one.workspace, one.params)
        evaluate(one.workspace, one.params, device="cpu")
        folder = one.workspace.evaluate
        scores = pd.read_csv(folder / "scores.csv").drop(columns="score")
        clips = pd.read_csv(folder / "clips.csv")
        tables.append((scores, clips))
    pd.testing.assert_frame_equal(tables[0][0], tables[1][0])
    pd.testing.assert_frame_equal(tables[0][1], tables[1][1])


def test_they_are_part_of_the_identity_and_only_they_are_computed(both: dict[int, Made], tmp_path: Path) -> None:
    assert cache_identity(both[0].cache) != cache_identity(both[2].cache)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG, str(tmp_path / "counts"))
        made = Made(tmp_path, 0)
        assert cache_identity(made.cache) == cache_identity(both[0].cache)
        (tmp_path / "counts").unlink()
        build_features(made.workspace, made.having(tmp_path, 2))
        assert [modality for modality, *_ in logged(tmp_path / "counts")] == ["audio"] * 2 * 10
        assert cache_identity(FeatureCache.open(made.workspace.features)) == cache_identity(both[2].cache)
        collect_garbage(made.workspace.features, older_than_seconds=0)
        assert cache_identity(FeatureCache.open(made.workspace.features)) == cache_identity(both[2].cache)
        assert not verify(made.workspace.features).problems
    with pytest.raises(Exception, match=r"features\.pseudo"):
        open_cache(made.workspace, made.params)


def test_the_sound_depends_on_the_window_and_the_draw_alone() -> None:
    sound = np.random.default_rng(0).integers(-3000, 3000, 16000, dtype=np.int16)
    one, again, other, elsewhere = (
        audio_view(sound, rate_hz=16000, key=key, view=view)
        for key, view in (("k", -1), ("k", -1), ("k", -2), ("l", -1))
    )
    assert (one == again).all()
    assert one.shape == sound.shape
    assert not (one == sound).all()
    assert not (one == other).all()
    assert not (one == elsewhere).all()
    assert abs(np.std(one / 1.0) / np.std(sound / 1.0) - 1) < 0.02
