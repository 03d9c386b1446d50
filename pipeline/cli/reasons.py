"""What a score hangs on, as `bmnas predict --explain` prints it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.markup import escape

from cache_schemas.paths import plain_text

if TYPE_CHECKING:
    from pipeline.detector.prediction import Explanation

_MOST = 4


def reasons(explanation: Explanation) -> Iterator[tuple[str, str]]:
    """Yields rows (of what, in words): of moments and layers the _MOST that speak most for a fake."""
    yield "why", "log10 odds of the raw P(fake) fall by so much without it"
    moments = {f"{each.start_s:.1f} to {each.end_s:.1f} s": each.effect for each in explanation.moments}
    of_window = f"window from second {explanation.window_s:.1f}"
    bands = {f"{each.low_hz:.0f} to {each.high_hz:.0f} Hz": each.effect for each in explanation.bands}
    for name, effects, note in (
        ("  when", moments, ""),
        ("  layers", explanation.layers, ""),
        ("  face", explanation.regions, of_window),
        ("  sound", bands, of_window),
    ):
        if effects:
            yield name, _told(effects, note)


def _told(effects: Mapping[str, float], note: str) -> str:
    """Whole where there is a note; largest first."""
    from pipeline.statistics.strength import signed

    shown = sorted(effects.items(), key=lambda each: -each[1])[: None if note else _MOST]
    told = "  ".join(f"{escape(plain_text(name))}: {signed(value)}" for name, value in shown)
    more = len(effects) - len(shown)
    return "\n".join(filter(None, (told, f"and {more} more" if more else note)))
