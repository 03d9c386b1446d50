"""Fake seconds: text form, joining, overlap."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache_schemas.segments import merge_segments, overlap_s, parse_segments, segments_text

seconds = st.floats(0, 1e5, allow_nan=False)
pairs = st.lists(st.tuples(seconds, seconds).map(sorted), max_size=8)


@given(pairs)
def test_text_round_trip(found: list[list[float]]) -> None:
    segments = merge_segments(found)
    assert parse_segments(segments_text(segments)) == segments


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=8), st.integers(0, 60))
def test_joined_segments_cover_the_same_seconds(found: list[list[int]], start: int) -> None:
    covered = np.zeros(61, bool)
    for first, last in found:
        covered[first:last] = True
    segments = merge_segments(found)
    assert overlap_s(segments, start, start + 7) == covered[start : start + 7].sum()
    assert all(a[1] < b[0] for a, b in pairwise(segments))


@pytest.mark.parametrize("pair", [[2, 1], [-1, 2], [0], [0, 1, 2], ["0", "1"], [0, float("inf")], [float("nan"), 1], 3])
def test_what_is_no_segment_is_refused(pair: object) -> None:
    with pytest.raises(ValueError, match=r"is not \[start, end\] in seconds"):
        merge_segments([pair])


@pytest.mark.parametrize("text", ["1", "1-", "a-b", "2-1", "1-2,3-4", "-1-2"])
def test_text_that_is_no_list_of_segments_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="seconds"):
        parse_segments(text)
