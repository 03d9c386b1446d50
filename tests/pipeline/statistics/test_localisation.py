from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.statistics.localisation import average_precision_at, average_recall_at, overlaps
from pipeline.statistics.metrics import UndefinedMetricError

TRUE = {"a": [(1.0, 2.0)], "b": [(0.0, 1.0), (3.0, 4.0)], "real": []}


def test_overlaps() -> None:
    assert overlaps([(0, 2), (5, 6)], [(1, 3), (0, 2), (2, 2)]) == pytest.approx(np.array([[1 / 3, 1, 0], [0, 0, 0]]))
    assert overlaps([], [(0, 1)]).shape == (0, 1)


def test_all_found_and_nothing_else() -> None:
    found = {clip: [(*segment, 0.9) for segment in segments] for clip, segments in TRUE.items()}
    assert average_precision_at(found, TRUE, 0.95) == 1
    assert average_recall_at(found, TRUE, 2) == 1
    assert average_recall_at(found, TRUE, 1) == pytest.approx(2 / 3)  # b has two
    assert average_precision_at({}, TRUE, 0.5) == 0


def test_by_hand() -> None:
    """Most confident first: a false alarm in the real clip, a hit, the same segment again, a hit."""
    found = {"real": [(0, 1, 0.9)], "a": [(1, 2, 0.8), (1, 2, 0.7)], "b": [(0.12, 1, 0.6)]}
    # Recall 1/3 at precision 1/2 and 2/3 at 2/4; the third segment is not found.
    assert average_precision_at(found, TRUE, 0.5) == pytest.approx(1 / 3 * 1 / 2 + 1 / 3 * 1 / 2)
    assert average_precision_at(found, TRUE, 0.92) == pytest.approx(1 / 3 * 1 / 2)  # b's overlaps by 0.88
    # a at all ten thresholds, b's at the eight below 0.88.
    assert average_recall_at(found, TRUE, 10) == pytest.approx((10 + 8) / 3 / 10)


def test_without_labels_there_is_no_value() -> None:
    with pytest.raises(UndefinedMetricError, match="no clip has labelled"):
        average_precision_at({}, {"real": []}, 0.5)


spans = st.tuples(st.floats(0, 5), st.floats(0.1, 2)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.tuples(spans, st.floats(0, 1)), max_size=5)),
    st.dictionaries(st.sampled_from("abc"), st.lists(spans, max_size=3)).filter(lambda d: any(d.values())),
)
def test_bounds_and_order(found: dict, true: dict) -> None:
    proposals = {clip: [(*span, c) for span, c in each] for clip, each in found.items()}
    at = [average_precision_at(proposals, true, iou) for iou in (0.5, 0.75, 0.95)]
    assert 1 >= at[0] >= at[1] >= at[2] >= 0
    more = [average_recall_at(proposals, true, most) for most in (1, 2, 10)]
    assert 0 <= more[0] <= more[1] <= more[2] <= 1
