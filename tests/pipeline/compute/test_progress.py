"""Progress lines, on a terminal of 80 columns."""

from io import StringIO

import pytest
from rich.console import Console

from pipeline.compute import progress
from pipeline.compute.progress import progress_bar

RATE = "5.97 clips/s, 22.7x real time"


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    """What a terminal of 80 columns was told."""
    file = StringIO()
    monkeypatch.setattr(progress, "console", Console(file=file, width=80))
    return file


@pytest.mark.parametrize(("total", "unit"), [(128, "clips"), (1_000_000, "clips"), (24, "windows")])
def test_a_line_fits_and_shows_all_of_it(screen: StringIO, total: int, unit: str) -> None:
    with progress_bar("spectrograms", total=total, unit=unit) as advance:
        advance(total, RATE)
    (line,) = screen.getvalue().splitlines()
    assert len(line) <= 80
    assert line.startswith("spectrograms ")
    assert f" {total}/{total} {unit} 0:00:0" in line
    assert line.rstrip().endswith(RATE)


def test_a_rate_stays_until_there_is_another(screen: StringIO) -> None:
    with progress_bar("faces", total=3, unit="clips") as advance:
        advance(1, "1 clips/s")
        advance(1, "2 clips/s")
        advance(1)
    assert screen.getvalue().rstrip().endswith("2 clips/s")
