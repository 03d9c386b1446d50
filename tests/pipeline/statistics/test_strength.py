"""How figures are written; what they are worth is tested with the evidence."""

from __future__ import annotations

import pytest

from pipeline.statistics.strength import signed


@pytest.mark.parametrize(
    ("value", "digits", "written"),
    [(0.312, 2, "+0.31"), (-1.2, 2, "-1.20"), (-0.004, 2, "0.00"), (-0.004, 3, "-0.004"), (0.0, 3, "0.000")],
)
def test_what_is_rounded_to_zero_has_no_sign(value: float, digits: int, written: str) -> None:
    assert signed(value, digits) == written
