"""What a detector says of a file: plain data, the same from Python, as JSON, on the page and over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.statistics.answers import Answer, agreement, cannot_tell

WhichFaces = Literal["all", "main"]
"""Whose faces of a file are scored: of all that stay long enough, or of the most persistent and largest alone."""


@dataclass(frozen=True)
class WindowScore:
    """P(fake) of one window: the mean over the run's networks."""

    start_s: float
    score: float


@dataclass(frozen=True)
class Moment:
    """A part of a window, as long as a position of the cached features; effect: as `Explanation` has it."""

    start_s: float
    end_s: float
    effect: float


@dataclass(frozen=True)
class Band:
    """A part of the spectrum; effect: as `Explanation` has it."""

    low_hz: float
    high_hz: float
    effect: float


@dataclass(frozen=True)
class Explanation:
    """What the score of the main face and the sound hangs on: when, where, on which layers.

    An effect is by how much log10 odds of the raw P(fake) fall where that part is taken away: above 0 it speaks for a
    fake. window_s: where the window begins that `regions` and `bands` are of, the one with the highest score.
    """

    window_s: float
    moments: tuple[Moment, ...] = ()
    layers: dict[str, float] = field(default_factory=dict)
    """{"visual/NAME" or "audio/NAME": effect}, over all windows."""
    regions: dict[str, float] = field(default_factory=dict)
    """{"mouth", "eyes", "skin", "border", "background": effect}"""
    bands: tuple[Band, ...] = ()


@dataclass(frozen=True)
class Person:
    """A face that stays long enough, and what is said of it with the file's sound: of its own windows alone.

    It was followed without a cut from `first_s` to `last_s`; after a cut nobody knows who is seen, so that one person
    may be several of these. Whether it is who speaks is not known, either.
    """

    first_s: float
    last_s: float
    score: float
    windows: tuple[WindowScore, ...]
    answer: Answer
    modalities: dict[str, Answer]
    quantities: dict[str, float | None]


@dataclass(frozen=True)
class Prediction:
    """One file's answer, by all it shows and sounds; `modalities`: the answers by the picture and by the sound alone.

    score: the mean over its windows, evidence of nothing by itself, None with a `reason` where it cannot be scored. The
    quantities are those of `pipeline.statistics.limits`. All of it is about the file's main face and its sound;
    `people`: the other faces, where they were asked for; and where cuts may have made the main face several people's,
    each of its own, too.
    """

    path: str
    score: float | None
    windows: tuple[WindowScore, ...] = ()
    reason: str = ""
    answer: Answer = field(default_factory=cannot_tell)
    modalities: dict[str, Answer] = field(default_factory=dict)
    quantities: dict[str, float | None] = field(default_factory=dict)
    shares: dict[str, float] = field(default_factory=dict)
    """Shapley values of picture and sound, "visual" and "audio", in `answer.log10_lr`, which is their sum; empty where
    one of the three answers is "cannot tell"."""
    quality: tuple[str, ...] = ()
    """What the input is like, in words: "the face is 38 px wide"."""
    people: tuple[Person, ...] = ()
    provenance: dict[str, Any] | None = None
    """What the file's C2PA manifest says, which never changes the answer; None: it has none, or nobody looked."""
    explanation: Explanation | None = None
    """Where it was asked for."""

    @property
    def agreement(self) -> str:
        """Whether the networks of several seeds agree, in words; empty where nothing was scored."""
        return "" if self.score is None else agreement(self.quantities.get("spread"), self.answer)


def unscored(path: str, reason: str) -> Prediction:
    """The prediction that says why there is none."""
    return Prediction(path, None, reason=reason, answer=cannot_tell(reason))
