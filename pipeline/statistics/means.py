"""What rows of a protocol's averages are called, and which tests are large enough to be named.

Apart from `pipeline.statistics.protocol`, which measures them, for whoever only reads need not wait for pandas.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

ENOUGH = 5
"""Clips of a class, of fewer of which chance makes a worst method or source."""
PAIRS, MEAN = "pairs of the unseen", "mean of the unseen"
MEANS = {PAIRS: "pairs", MEAN: "mean"}
"""What rows of averages are trained on, the one that leads first, and their names in `protocol.what_is_added`."""


def disagree(adds: Mapping[str, Any]) -> bool:
    """Whether something is added by the one of the MEANS and lost by the other; adds: of `protocol.what_is_added`."""
    return bool(adds["pairs"]["difference"] * adds["mean"]["difference"] < 0)
