"""Which seconds of a clip are fake: lists of (start, end), and their text form in the manifest."""

from __future__ import annotations

import re

Segments = tuple[tuple[float, float], ...]
"""(start_s, end_s), seconds from the clip's start, in order, not touching one another."""

MIN_FAKE_S = 0.1
"""A window with more of a fake segment than this is fake: less is two frames at 25 fps, and nothing to be seen."""

_NUMBER = r"\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
_SEGMENT = re.compile(rf"({_NUMBER})-({_NUMBER})")


def merge_segments(pairs: object) -> Segments:
    """The segments in order, with those that overlap or touch joined; raises ValueError on anything but
    pairs of seconds with 0 <= start <= end. Segments of no length are dropped.
    """
    if not isinstance(pairs, (list, tuple)):
        raise ValueError(f"fake segments {pairs!r} are not a list of [start, end] in seconds")
    merged: list[tuple[float, float]] = []
    for start, end in sorted(_pair(pair) for pair in pairs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif end > start:
            merged.append((start, end))
    return tuple(merged)


def overlap_s(segments: Segments, start_s: float, end_s: float) -> float:
    """Seconds of `segments` between `start_s` and `end_s`."""
    return sum(max(0.0, min(end, end_s) - max(start, start_s)) for start, end in segments)


def segments_text(segments: Segments) -> str:
    """`0.5-1.25;3-3.5`; empty where there are none."""
    return ";".join("-".join(repr(seconds).removesuffix(".0") for seconds in pair) for pair in segments)


def parse_segments(text: str) -> Segments:
    """The segments of `text` as `segments_text` writes them; raises ValueError."""
    found = []
    for part in text.split(";") if text.strip() else []:
        match = _SEGMENT.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"fake segments {text!r} do not read START-END;START-END in seconds, as 0.5-1.25;3-3.5")
        found.append((float(match[1]), float(match[2])))
    return merge_segments(found)


def _pair(pair: object) -> tuple[float, float]:
    if isinstance(pair, (list, tuple)) and len(pair) == 2 and all(_is_number(value) for value in pair):
        start, end = float(pair[0]), float(pair[1])
        if 0 <= start <= end < float("inf"):
            return start, end
    raise ValueError(f"fake segment {pair!r} is not [start, end] in seconds with 0 <= start <= end")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
