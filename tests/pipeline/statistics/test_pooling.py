from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics.pooling import POOLS


def test_by_hand() -> None:
    scores = np.array([0.1, 0.9, 0.2, 0.1])
    found = {name: pool(scores) for name, pool in POOLS.items()}
    assert found["mean"] == pytest.approx(0.325)
    assert found["max"] == pytest.approx(0.9)
    assert found["top-3"] == pytest.approx(0.4)
    assert found["log-sum-exp"] == pytest.approx(np.log(np.exp(10 * scores).mean()) / 10)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20), st.randoms())
def test_between_the_mean_and_the_highest_in_any_order(values: list[float], random: object) -> None:
    scores = np.array(values)
    for pool in POOLS.values():
        assert scores.mean() - 1e-9 <= pool(scores) <= scores.max() + 1e-9
        assert pool(np.random.default_rng(0).permutation(scores)) == pytest.approx(pool(scores))
        assert pool(scores[:1]) == pytest.approx(scores[0])
