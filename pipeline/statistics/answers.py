"""What is said of a clip: worded evidence with its likelihood ratio, or "cannot tell" and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cache_schemas.evidence import SystemEvidence
from cache_schemas.run import NetworkName
from pipeline.statistics.strength import Calibration, in_words

CANNOT_TELL = "cannot tell"
_DISAGREE = "the networks disagree"
QUANTITIES: Mapping[NetworkName, tuple[str, ...]] = {
    "fusion": ("face_share", "speech_s", "visual_distance", "audio_distance", "spread"),
    "visual": ("face_share", "visual_distance", "spread"),
    "audio": ("speech_s", "audio_distance", "spread"),
}
"""On which it depends whether a network's score is an answer; `pipeline.statistics.limits` says what they are."""
LEAST = {"face_share": 0.25, "speech_s": 1.0}
"""Below these a clip is not judged. What is seen for less than a quarter of the time is a cutaway, not the person in
question; a second is about the shortest utterance that speaker recognition is measured on."""


@dataclass(frozen=True)
class Answer:
    """What one network says of a clip.

    log10_lr: how much more probable its score is of a fake than of a real clip, within `limits`, the most that the val
    clips support; probability: P(fake) by that if as many fakes as real clips are expected. Both None where it cannot
    tell; `reasons` says why. score: the mean of the raw P(fake), evidence of nothing by itself.
    """

    says: str
    score: float | None = None
    log10_lr: float | None = None
    limits: tuple[float, float] | None = None
    probability: float | None = None
    reasons: tuple[str, ...] = ()


def calibration_of(system: SystemEvidence) -> Calibration:
    """The calibration that evidence.json keeps."""
    return Calibration(system.kind, tuple(system.points), (system.low, system.high))


def cannot_tell(*reasons: str, score: float | None = None) -> Answer:
    """The answer that says so."""
    return Answer(f"{CANNOT_TELL}: {'; '.join(reasons)}", score=score, reasons=reasons)


def answer(score: float, quantities: Mapping[str, float], system: SystemEvidence) -> Answer:
    """What a clip's score says; quantities: those of `pipeline.statistics.limits`, NaN where not known."""
    reasons = [
        why(name, quantities[name], limit)
        for name, limit in system.limits.items()
        if limit is not None and beyond(name, quantities[name], system.limits)
    ]
    if reasons:
        return cannot_tell(*reasons, score=score)
    lr = float(calibration_of(system).log10_lr(score))
    return Answer(in_words(lr), score, lr, (system.low, system.high), float(1 / (1 + np.power(10.0, -lr))))


def shapley(together: Answer, visual: Answer, audio: Answer) -> dict[str, float]:
    """What picture and sound, "visual" and "audio", each give to the log10 LR of both together, which is their sum.

    The Shapley value of a game of two: what one adds, on average over who comes first; empty where any cannot tell.
    """
    both, seen, heard = together.log10_lr, visual.log10_lr, audio.log10_lr
    if both is None or seen is None or heard is None:
        return {}
    return {"visual": (seen + (both - heard)) / 2, "audio": (heard + (both - seen)) / 2}


def agreement(spread: float | None, together: Answer) -> str:
    """Whether the networks of several seeds agree, in words; spread: by how much their P(fake) differ, None for one."""
    if spread is None:
        return "one network alone: whether others would agree is not known"
    disagree = any(reason.startswith(_DISAGREE) for reason in together.reasons)
    said = "disagree" if disagree else "agree as far as on known clips"
    return f"they {said}: their P(fake) differ by {spread:.2f}"


def beyond(name: str, values: ArrayLike, limits: Mapping[str, float | None]) -> NDArray[np.bool_]:
    """Of a quantity's values (any shape), whether each keeps its clip from being judged; NaN, not known, does not.

    No sound at all is no reason where the picture is judged, too: a network that scores such clips was trained on some.
    """
    limit, x = limits[name], np.asarray(values, np.float64)
    if limit is None:
        return np.zeros(x.shape, bool)
    if name not in LEAST:
        return np.asarray(x > limit)
    mute = (x == 0) & (name == "speech_s") & ("face_share" in limits)
    return np.asarray((x < limit) & ~mute)


def why(name: str, value: float, limit: float) -> str:
    """Why a quantity of this value keeps a clip from being judged, in words."""
    if name == "face_share":
        return f"too little face: seen in {value:.0%} of the pictures looked at, at least {limit:.0%} needed"
    if name == "speech_s":
        return f"too little sound: {value:.2f} s above silence, at least {limit:g} s needed"
    if name == "spread":
        return f"{_DISAGREE}: their P(fake) differ by {value:.2f}, by {limit:.2f} at most on known clips"
    what = "picture" if name == "visual_distance" else "sound"
    return (
        f"unlike anything it was trained on: its {what} lies at a distance of {value:.2f} from the training clips, "
        f"clips like those at {limit:.2f} at most"
    )
