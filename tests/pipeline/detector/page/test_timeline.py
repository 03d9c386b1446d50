"""The figure under the player: places, flags, captions."""

from __future__ import annotations

import pytest

from pipeline.detector.page.shown import Film
from pipeline.detector.page.timeline import EFFECTS_PX, SCORES_PX, captions, clock, draw, flagged_spans
from pipeline.detector.prediction import Moment, WindowScore

FILM = Film(b"", 0.0, 10.0, whole=True)
WINDOWS = [WindowScore(0.0, 0.9), WindowScore(3.0, 0.7), WindowScore(6.0, 0.2), WindowScore(8.0, 0.75)]


def test_bars_stand_where_and_as_high_as_they_should() -> None:
    moments = [Moment(0.0, 0.5, 0.2), Moment(0.5, 1.0, -0.4)]
    drawn = draw(WINDOWS, moments, window_s=4.0, threshold=0.5, film=FILM)
    assert drawn.end_s == 10.0
    assert [(bar.x, bar.width) for bar in drawn.windows] == [(0, 40), (30, 40), (60, 40), (80, 20)]
    assert [bar.height / SCORES_PX for bar in drawn.windows] == pytest.approx([0.9, 0.7, 0.2, 0.75], abs=1e-3)
    assert [bar.height / EFFECTS_PX for bar in drawn.moments] == pytest.approx([0.5, -1])
    assert drawn.most == 0.4
    assert [seconds for _, seconds in drawn.ticks] == [0, 2, 4, 6, 8]
    assert drawn.threshold == SCORES_PX / 2


def test_flagged_windows_that_touch_are_one() -> None:
    drawn = draw(WINDOWS, [], window_s=4.0, threshold=0.7, film=FILM)
    assert [bar.flagged for bar in drawn.windows] == [True, True, False, True]
    assert [(span.start_s, span.end_s, span.value) for span in flagged_spans(drawn)] == [(0, 7, 0.9), (8, 10, 0.75)]
    assert not flagged_spans(draw(WINDOWS, [], window_s=4.0, threshold=None, film=FILM))


def test_captions_are_on_the_film_s_clock() -> None:
    drawn = draw(WINDOWS, [], window_s=4.0, threshold=0.7, film=None)
    assert captions(drawn, FILM).splitlines() == [
        "WEBVTT",
        "",
        "00:00:00.000 --> 00:00:07.000",
        "Flagged from 0:00.0 to 0:07.0: raw P(fake) up to 0.90",
        "",
        "00:00:08.000 --> 00:00:10.000",
        "Flagged from 0:08.0 to 0:12.0: raw P(fake) up to 0.75",
    ]
    part = captions(drawn, Film(b"", 5.5, 7.5, whole=False))
    assert "00:00:00.000 --> 00:00:01.500" in part
    assert "0:08.0" not in part
    nothing = draw(WINDOWS, [], window_s=4.0, threshold=0.95, film=FILM)
    assert "00:00:00.000 --> 00:00:04.000\nNothing is flagged" in captions(nothing, FILM)


def test_nothing_to_draw_is_no_error() -> None:
    drawn = draw([], [], window_s=4.0, threshold=0.5, film=None)
    assert (drawn.end_s, drawn.windows, drawn.ticks) == (0, (), ())


def test_clock() -> None:
    assert [clock(seconds) for seconds in (0, 3.94, 59.96, 3599.94, 7325.5)] == [
        "0:00.0", "0:03.9", "1:00.0", "59:59.9", "2:02:05.5",
    ]  # fmt: skip
