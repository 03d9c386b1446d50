"""Whether thresholds carry over: by those of validation, and by those of what else was left out."""

import pandas as pd
import pytest

from pipeline.statistics.protocol import thresholds_carry_over


def rows(
    source: str, label: int, values: list[float], *, threshold: float, people: str = ""
) -> list[dict[str, object]]:
    """Clips of a source, of one person each, or all of `people`; two seeds, whose mean is the value."""
    return [
        {
            "clip_id": f"{source}-{label}-{i}{people}", "trained_on": f"all but {source}", "tested_on": source,
            "person": people or f"{source}-{label}-{i}", "label": label, "method": method, "seed": seed,
            "score": value + (0.01 if seed else -0.01), "threshold": threshold,
        }
        for i, value in enumerate(values) for method in ("search", "SVM") for seed in (0, 1)
    ]  # fmt: skip


def test_both_thresholds_count_every_clip_that_was_left_out() -> None:
    table = pd.DataFrame(
        [
            *rows("a", 0, [0.3, 0.5], threshold=0.4),
            *rows("a", 1, [0.7, 0.9], threshold=0.4),
            *rows("b", 0, [0.3, 0.5], threshold=0.8),
            *rows("b", 1, [0.7, 0.9], threshold=0.8),
            *rows("c", 1, [0.2], threshold=0.1),  # of one class: it counts as well
        ]
    )
    found = thresholds_carry_over(table, "search")
    assert found is not None
    assert (found["real"], found["fake"]) == (4, 5)
    assert found["val"] == pytest.approx({"reals_accused": 1 / 4, "fakes_missed": 1 / 5})
    assert found["elsewhere"] == pytest.approx({"reals_accused": 0, "fakes_missed": 1 / 5})
    assert (
        "by thresholds of validation clips, 25% of the real clips are accused and 20% of the fakes" in found["sentence"]
    )
    assert "by thresholds of what else was left out, 0% of the real clips" in found["sentence"]


def test_people_of_a_test_choose_no_threshold_of_it() -> None:
    """By b's clips alone, of its own person too, 0.5 would be fake."""
    table = pd.DataFrame(
        [
            *rows("a", 0, [0.5], threshold=0.5, people="x"),
            *rows("a", 1, [0.9], threshold=0.5, people="x"),
            *rows("b", 0, [0.3], threshold=0.5),
            *rows("b", 0, [0.8], threshold=0.5, people="x"),
            *rows("b", 1, [0.9], threshold=0.5),
        ]
    )
    one, two = (thresholds_carry_over(table[table["tested_on"].isin(kept)], "search") for kept in (["a", "b"], ["a"]))
    assert one is not None
    assert (one["real"], one["fake"]) == (1, 1), "nobody else than x is in a: b has no threshold of others"
    assert two is None, "nothing else was left out"
