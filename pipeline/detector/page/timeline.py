"""The figure under the player: what is drawn where. Places along time are in percent of its width, so that text keeps
its size on any screen; heights are in px.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from pipeline.detector.page.shown import Film
from pipeline.detector.prediction import Moment, WindowScore

SCORES_PX, EFFECTS_PX = 96, 36
"""Height of the lane of scores, 0 to 1, and of each half of the lane of effects."""
_Part = TypeVar("_Part")
_STEPS_S = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
_MOST_TICKS = 6
_MOST_WINDOWS, _MOST_MOMENTS = 400, 1200
"""So many are drawn; of hours, neighbours as one."""


@dataclass(frozen=True)
class Bar:
    """A part of the time; height: px up from its lane's axis, below 0 downwards."""

    start_s: float
    end_s: float
    x: float
    width: float
    height: float
    value: float
    flagged: bool = False


@dataclass(frozen=True)
class Timeline:
    """All of it; ticks: (percent, seconds); threshold: px above the axis, None where nothing can be flagged."""

    end_s: float
    windows: tuple[Bar, ...]
    moments: tuple[Bar, ...]
    ticks: tuple[tuple[float, float], ...]
    threshold: float | None
    most: float
    """The effect that is as high as its lane."""


def draw(
    windows: Sequence[WindowScore],
    moments: Sequence[Moment],
    *,
    window_s: float,
    threshold: float | None,
    film: Film | None,
) -> Timeline:
    """windows: in order of time; from `threshold` on they are flagged, None: none is.

    Neighbours that are drawn as one have the score, or the effect, that is the farthest from 0.
    """
    ends = [window.start_s + window_s for window in windows] + [moment.end_s for moment in moments]
    end = max([film.end_s] if film and film.whole else ends, default=0.0)
    most = max((abs(moment.effect) for moment in moments), default=0.0)

    def bars(
        parts: Sequence[tuple[float, float, float]], most_bars: int, px: float, least: float = math.inf
    ) -> Iterator[Bar]:
        for some in _some(parts, most_bars):
            start_s, last = some[0][0], min(max(end_s for _, end_s, _ in some), end)
            value = max((value for *_, value in some), key=abs)
            x, right = (round(100 * at / end, 3) for at in (start_s, last))
            width, flagged = max(round(right - x, 3), 0.0), value >= least
            yield Bar(start_s, last, x, width, round(px * value, 1), value, flagged)

    scores = [(of.start_s, of.start_s + window_s, of.score) for of in windows]
    effects = [(of.start_s, of.end_s, of.effect) for of in moments]
    return Timeline(
        end,
        tuple(bars(scores, _MOST_WINDOWS, SCORES_PX, math.inf if threshold is None else threshold)),
        tuple(bars(effects, _MOST_MOMENTS, EFFECTS_PX / (most or 1))),
        tuple(_ticks(end)),
        None if threshold is None else round(SCORES_PX * threshold, 1),
        most,
    )


def _some(parts: Sequence[_Part], most: int) -> Iterator[Sequence[_Part]]:
    """Neighbours together, so that there are at most so many groups."""
    size = max(1, math.ceil(len(parts) / most))
    return (parts[first : first + size] for first in range(0, len(parts), size))


def _ticks(end_s: float) -> Iterable[tuple[float, float]]:
    step = next((step for step in _STEPS_S if end_s <= step * _MOST_TICKS), _STEPS_S[-1])
    count = int(end_s / step) if end_s else 0
    # The last one would run out of the figure.
    return ((round(100 * i * step / end_s, 3), i * step) for i in range(count + 1) if i * step < 0.97 * end_s)


def flagged_spans(timeline: Timeline) -> list[Bar]:
    """The flagged windows, those that touch as one, with their highest score."""
    spans: list[Bar] = []
    for each in filter(lambda bar: bar.flagged, timeline.windows):
        if spans and each.start_s <= spans[-1].end_s:
            last = spans.pop()
            spans.append(replace(last, end_s=each.end_s, value=max(last.value, each.value)))
        else:
            spans.append(each)
    return spans


def captions(timeline: Timeline, film: Film) -> str:
    """WebVTT of what is flagged, on the film's clock."""
    cues = [
        (
            span.start_s,
            span.end_s,
            f"Flagged from {clock(span.start_s)} to {clock(span.end_s)}: raw P(fake) up to {span.value:.2f}",
        )
        for span in flagged_spans(timeline)
    ]
    if not cues:
        cues = [(film.start_s, film.start_s + 4, "Nothing is flagged")]
    lines = ["WEBVTT", ""]
    for start, end, text in cues:
        first, last = max(start, film.start_s) - film.start_s, min(end, film.end_s) - film.start_s
        if first < last:
            lines += [f"{_stamp(first)} --> {_stamp(last)}", text, ""]
    return "\n".join(lines)


def clock(seconds: float) -> str:
    """ "0:03.9", "1:02:03.0" """
    tenths = round(10 * seconds)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest // 10:02d}.{rest % 10}"
    return f"{hours}:{minutes:02d}:{text}" if hours else f"{minutes}:{text}"


def _stamp(seconds: float) -> str:
    whole = round(1000 * seconds)
    minutes, rest = divmod(whole, 60000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{rest // 1000:02d}.{rest % 1000:03d}"
