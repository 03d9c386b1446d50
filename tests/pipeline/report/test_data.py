from __future__ import annotations

import pytest

from cache_schemas.manifest import Quarantined
from pipeline.report import data
from pipeline.report.data import data_counts, quarantine_summary
from tests.pipeline.run_fixture import make_index


def test_clips_windows_and_subjects_are_counted_per_split() -> None:
    counts = data_counts(make_index(subjects=10, windows=3), window_s=4.0)
    assert counts["categories"] == ["FVFA", "FVRA", "RVFA", "RVRA"]
    assert [(row["split"], row["clips"], row["windows"], row["subjects"]) for row in counts["rows"]] == [
        ("train", 24, 72, 6),
        ("val", 8, 24, 2),
        ("test", 8, 24, 2),
    ]
    assert counts["rows"][0]["categories"] == [6, 6, 6, 6]
    assert {"dataset": "made-up", "method": "wav2lip", "clips": 10, "people": 10} in counts["sources"]


def test_seconds_used_are_those_that_a_window_covers_once() -> None:
    """Windows of 4 s at 0 and 4 s: of 5 s all, of 16 s half."""
    index = make_index(subjects=5)
    assert data_counts(index.assign(duration_s=5.0), window_s=4.0)["rows"][0]["used"] == pytest.approx(1)
    longer = data_counts(index.assign(duration_s=16.0), window_s=4.0)["rows"][0]
    assert (longer["seconds"], longer["used"]) == (12 * 16, pytest.approx(0.5))


def test_no_clip_has_no_share() -> None:
    index = make_index(subjects=5)
    assert data_counts(index[index["split"] == "train"], window_s=4.0)["rows"][2]["used"] is None


def test_quarantine_summary_counts_and_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Quarantined(f"c{i}", f"{i}.mp4", "faces", "no face" if i else "two faces") for i in range(5)]
    summary = quarantine_summary(rows)
    assert summary["reasons"] == [("faces", "no face", 4), ("faces", "two faces", 1)]
    assert (summary["total"], len(summary["rows"])) == (5, 5)
    monkeypatch.setattr(data, "MAX_QUARANTINE_ROWS", 3)
    assert [row.path for row in quarantine_summary(rows)["rows"]] == ["0.mp4", "1.mp4", "2.mp4"]
    assert quarantine_summary(rows)["total"] == 5
