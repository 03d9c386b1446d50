"""The fuzz run in small."""

from pathlib import Path

from tests.soak.fuzz import MUTATIONS, SEEDS, fuzz


def test_damaged_files_are_used_or_refused(tmp_path: Path) -> None:
    outcome = fuzz(30, tmp_path, seed=1)
    assert outcome.findings == []
    assert outcome.counts["sound: usable"] > 0
    assert outcome.counts["sound: refused"] > 0
    assert outcome.counts["picture: usable"] + outcome.counts["picture: refused"] == 30
    assert len(MUTATIONS) * len(SEEDS) == 30
