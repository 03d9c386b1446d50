"""Distances from the training data: what they do not depend on, what they tell apart, and what is read of a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from cache_schemas.features import FeatureCache
from pipeline.runs.familiar import clip_distances, fit_familiar, fit_gaussian
from pipeline.runs.unlike import read_familiar, write_familiar
from tests.pipeline.run_fixture import make_index, make_workspace

SEEDS = st.integers(0, 2**32 - 1)
N, D = 60, 12


def cloud(seed: int, n: int = N, d: int = D) -> np.ndarray:
    """Normal points, spread differently in each direction."""
    random = np.random.default_rng(seed)
    turned = ortho_group.rvs(d, random_state=random)
    return random.standard_normal((n, d)) * np.linspace(0.3, 3, d) @ turned + random.standard_normal(d)


@given(SEEDS)
@settings(max_examples=20)
def test_it_does_not_matter_where_points_lie_how_they_are_turned_and_in_which_unit(seed: int) -> None:
    random = np.random.default_rng(seed)
    x, other = cloud(seed), cloud(seed + 1)
    turned, shift, unit = ortho_group.rvs(D, random_state=random), 9 * random.standard_normal(D), random.uniform(0.1, 9)
    before = fit_gaussian(x).distances(other)
    after = fit_gaussian(unit * x @ turned + shift).distances(unit * other @ turned + shift)
    assert after == pytest.approx(before, rel=1e-6)


@given(SEEDS)
@settings(max_examples=20)
def test_with_points_enough_no_linear_map_matters(seed: int) -> None:
    """What is left of the shrinkage is small then."""
    x, other = cloud(seed, 20_000, 4), cloud(seed, 50, 4)
    mixed = np.random.default_rng(seed).uniform(-0.5, 0.5, (4, 4)) + 3 * np.eye(4)
    assert fit_gaussian(x @ mixed).distances(other @ mixed) == pytest.approx(fit_gaussian(x).distances(other), rel=0.05)


@given(SEEDS)
@settings(max_examples=20)
def test_points_like_the_training_data_are_near_and_others_far(seed: int) -> None:
    x = cloud(seed, 2000)
    found = fit_gaussian(x[:1000])
    assert np.sqrt(np.square(found.distances(x[1000:])).mean()) == pytest.approx(1, abs=0.1)
    narrow = np.linalg.eigh(np.cov(x.T))[1][:, 0]  # the direction in which they differ least
    step = 10 * np.sqrt(np.var(x @ narrow))
    assert found.distances(x[1000:] + step * narrow).mean() > 2
    assert np.quantile(found.distances(x[1000:]), 0.99) < 2  # the farthest of a thousand may be beyond
    assert found.distances(x[1000:]).max() < 3


def test_what_no_training_point_does_is_far_though_there_are_fewer_points_than_directions() -> None:
    random = np.random.default_rng(0)
    flat = np.zeros((20, 50))
    flat[:, :10] = random.standard_normal((20, 10))
    found = fit_gaussian(flat)
    out = flat[:1].copy()
    out[0, 30] = 3
    assert found.distances(out)[0] > 2 * found.distances(flat).max()
    assert np.isfinite(fit_gaussian(np.ones((3, 4))).distances(np.zeros((1, 4)))).all()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> FeatureCache:
    """Every subject has a mute clip, whose sound in the cache is far from all others'."""
    index = make_index(subjects=20, categories=("RVRA", "FVFA", "RV-"))
    return FeatureCache.open(make_workspace(tmp_path_factory.mktemp("work"), index, silence=50.0).features)


def test_a_clip_is_as_far_as_half_of_its_windows_and_a_mute_one_has_no_sound_to_be_far(cache: FeatureCache) -> None:
    familiar = fit_familiar(cache)
    table = clip_distances(cache, familiar)
    clips = cache.index.drop_duplicates("clip_id").set_index("clip_id")
    assert list(table.index) == list(clips.index)
    assert table["visual_distance"].notna().all()
    assert table["audio_distance"].isna().equals(~clips["has_audio"])
    # Had the mute windows' sound been learnt from, a mean would lie between: all would be as far as each other.
    heard = table["audio_distance"].dropna()
    assert heard[clips["split"] == "train"].max() < 2

    of = familiar["visual"]
    windows = cache.index.index[cache.index["clip_id"] == table.index[0]].to_numpy()
    read = cache.read(windows, of.layers)
    x = torch.cat([torch.nn.functional.normalize(read[n][0].double().mean(1), dim=1) for n in of.layers], dim=1)
    assert table["visual_distance"].iloc[0] == pytest.approx(np.median(of.gaussian.distances(x.numpy())))


def test_what_is_written_is_read(cache: FeatureCache, tmp_path: Path) -> None:
    familiar = fit_familiar(cache)
    write_familiar(tmp_path / "unlike.safetensors", familiar)
    again = read_familiar(tmp_path / "unlike.safetensors")
    assert {m: of.layers for m, of in again.items()} == {m: of.layers for m, of in familiar.items()}
    assert clip_distances(cache, again).equals(clip_distances(cache, familiar))


@pytest.mark.parametrize(("split", "same"), [("val", True), ("train", False)])
def test_only_the_training_split_is_learnt_from(split: str, same: bool, cache: FeatureCache, tmp_path: Path) -> None:
    index = make_index(subjects=20, categories=("RVRA", "FVFA", "RV-"))
    moved = index.assign(split=index["split"].mask(index["subject_id"] == "s04", split))
    assert (moved["split"] != index["split"]).sum() == 6
    one, other = (
        fit_familiar(c)["visual"].gaussian.mean
        for c in (cache, FeatureCache.open(make_workspace(tmp_path, moved, silence=50.0).features))
    )
    assert np.array_equal(one, other) == same
