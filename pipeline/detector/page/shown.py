"""What stands on a page beside the answer: plain data, of the file and of the detector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Film:
    """A small copy to be played; mp4: H.264 and AAC; from `start_s` to `end_s` of the file, which is `whole` or not."""

    mp4: bytes = field(repr=False)
    start_s: float
    end_s: float
    whole: bool


@dataclass(frozen=True)
class Face:
    """What the networks saw of the main face in the window that begins at `start_s`."""

    start_s: float
    crops: NDArray[np.uint8] = field(repr=False)
    """(frames, H, W, 3) RGB"""


@dataclass(frozen=True)
class Spectrum:
    """What they heard in the window that begins at `start_s`."""

    start_s: float
    power: NDArray[np.float32] = field(repr=False)
    """(bands, hops) ln power, low bands first"""


@dataclass(frozen=True)
class Shown:
    """What is shown of the file itself; a page is there without any of it, too. missing: why something is not.

    name: what it is called on the page; its own name where there is none.
    """

    sha256: str = ""
    bytes: int = 0
    film: Film | None = None
    faces: tuple[Face, ...] = ()
    spectrum: Spectrum | None = None
    missing: tuple[str, ...] = ()
    name: str = ""


@dataclass(frozen=True)
class Claim:
    """What one network may say at most (log10 LR), by which clips; threshold: called fake from this score on."""

    lowest: float
    highest: float
    threshold: float
    by: str


@dataclass(frozen=True)
class About:
    """The detector. All words in it are those of whoever made it."""

    name: str
    """The bundle's file or the run's folder."""
    digest: str
    """SHA-256 of the bundle; of a run, of the file that lists its networks."""
    window_s: float
    worth: str
    """What it reached on test clips, a sentence."""
    warnings: tuple[str, ...] = ()
    claims: Mapping[str, Claim] = field(default_factory=dict)
    """By network: "fusion", "visual", "audio"."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """{package: version}, bmnas and those that its scores depend on"""
    options: tuple[str, ...] = ()
    """Of `bmnas predict`, with which the same is found again: ("--bundle", "detector.bmnas")."""
