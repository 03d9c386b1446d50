from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics.pooling import POOLS, side_by_side


def test_by_hand() -> None:
    scores = np.array([0.1, 0.9, 0.2, 0.1])
    found = {name: pool(scores[None])[0] for name, pool in POOLS.items()}
    assert found["mean"] == pytest.approx(0.325)
    assert found["max"] == pytest.approx(0.9)
    assert found["top-3"] == pytest.approx(0.4)
    assert found["log-sum-exp"] == pytest.approx(np.log(np.exp(10 * scores).mean()) / 10)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_between_the_mean_and_the_highest_in_any_order(values: list[float]) -> None:
    scores = np.array(values)
    for pool in POOLS.values():
        found = pool(np.stack([scores, np.random.default_rng(0).permutation(scores)]))
        assert scores.mean() - 1e-9 <= found[0] <= scores.max() + 1e-9
        assert found[1] == pytest.approx(found[0])
        assert pool(scores[:1, None])[0] == pytest.approx(scores[0])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_clips_of_any_lengths_are_pooled_as_each_alone(lengths: list[int]) -> None:
    clips = np.repeat(3 * np.arange(len(lengths)), lengths)
    scores = np.random.default_rng(0).random(len(clips))
    for pool in POOLS.values():
        alone = [pool(scores[clips == clip][None])[0] for clip in np.unique(clips)]
        assert pool(side_by_side(clips, scores)) == pytest.approx(alone)


def test_no_clips_are_pooled_to_none() -> None:
    for pool in POOLS.values():
        assert pool(side_by_side(np.empty(0, np.intp), np.empty(0))).shape == (0,)
