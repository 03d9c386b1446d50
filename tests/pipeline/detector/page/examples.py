"""What a page can be made of: everything there is, and next to nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.detector.page.shown import About, Claim, Face, Film, Shown, Spectrum
from pipeline.detector.prediction import Band, Explanation, Moment, Person, Prediction, WindowScore, unscored
from pipeline.statistics.answers import Answer, cannot_tell

SAYS = Answer("weak support for a fake", 0.771, 0.64, (-1.07, 1.21), 0.814)
ABOUT = About(
    name="detector.bmnas",
    digest="ab" * 32,
    window_s=4.0,
    worth="On 49 test clips of 9 people the searched network reaches an AUC of 0.986 (95 % interval 0.914 to 1.000).",
    warnings=("The test split holds 49 clips of 9 subjects.",),
    claims={
        "fusion": Claim(-1.07, 1.21, 0.8, "16 real and 40 fake validation clips"),
        "visual": Claim(-0.44, 0.55, 0.6, "16 real and 40 fake validation clips"),
    },
    versions={"Python": "3.11.2", "bmnas": "0.1.0"},
    options=("--bundle", "detector.bmnas"),
)
WINDOWS = tuple(WindowScore(start, score) for start, score in [(0.19, 0.622), (3.91, 0.818), (7.64, 0.897)])
EXPLANATION = Explanation(
    7.64,
    moments=tuple(
        Moment(start + 0.5 * i, start + 0.5 * (i + 1), float(np.sin(start + i)))
        for start in (0.19, 7.64)
        for i in range(8)
    ),
    layers={"visual/blocks.3": 0.41, "visual/blocks.6": -0.12, "audio/layer2": 0.2},
    regions={"mouth": 0.51, "eyes": -0.07, "skin": 0.1, "border": 0.02, "background": 0.0},
    bands=tuple(Band(1000.0 * i, 1000.0 * (i + 1), 0.1 * i - 0.2) for i in range(6)),
)
FULL = Prediction(
    "clips/interview.mp4",
    0.771,
    WINDOWS,
    answer=SAYS,
    modalities={
        "visual": Answer("weak support for a fake", 0.7, 0.41, (-0.44, 0.55), 0.72),
        "audio": cannot_tell("too little sound: 0.40 s above silence, at least 1 s needed", score=0.4),
    },
    quantities={"face_share": 0.97, "speech_s": 9.2, "visual_distance": 1.1, "audio_distance": None, "spread": 0.05},
    shares={"visual": 0.44, "audio": 0.2},
    quality=("the face is 38 px wide", "speech of 9 s"),
    people=(Person(1.0, 6.5, 0.2, WINDOWS[:1], cannot_tell("too little face"), {"visual": SAYS}, {}),),
    provenance={"claim_generator": "camera/1.0", "assertions": ["c2pa.actions", {"by": "somebody"}], "valid": True},
    explanation=EXPLANATION,
)
BARE = replace(FULL, shares={}, quality=(), people=(), provenance=None, explanation=None)
CANNOT = replace(
    BARE,
    answer=cannot_tell("too little face: seen in 12 % of the pictures looked at, at least 25 % needed", score=0.771),
)
UNSCORED = unscored("notes.mp4", "not a media file that can be read")


def shown(film: bytes = b"no film", **changes: object) -> Shown:
    """All that can be shown; film: an mp4 of 12 s."""
    random = np.random.default_rng(0)
    crops = random.integers(0, 255, (3, 12, 24, 24, 3)).astype(np.uint8)
    found = Shown(
        sha256="cd" * 32,
        bytes=1234567,
        film=Film(film, 0.0, 12.0, whole=True),
        faces=tuple(Face(window.start_s, seen) for window, seen in zip(WINDOWS, crops, strict=True)),
        spectrum=Spectrum(7.64, random.normal(size=(80, 400)).astype(np.float32)),
    )
    return replace(found, **changes)  # type: ignore[arg-type]
