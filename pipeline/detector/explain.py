"""Why a score is what it is: parts are taken away from what was seen and heard, and the networks are asked again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cache_schemas.run import NetworkName
from pipeline.backbones import Modality
from pipeline.detector.occlude import Window, bands, face_regions, without_band, without_pixels
from pipeline.detector.prediction import Band, Explanation, Moment, Prediction
from pipeline.detector.road import Walked
from pipeline.params import Params

Layers = Mapping[str, NDArray[Any]]
"""{layer: (windows, L, C_in)}"""
Scores = Callable[[NetworkName, Layers], NDArray[np.float64]]
"""P(fake) (windows,) of layers: the mean over the networks of that name."""
Rows = Callable[[Mapping[float, Window], Collection[str]], tuple[Layers, Mapping[int, str]]]
"""As `Road.rows`: (the layers of some modalities of windows, {window's number: why no cache would hold them})."""
_Part = TypeVar("_Part")

SHOWN_WINDOWS = 8
_SUREST = 1e-7


@dataclass(frozen=True)
class LookedAt:
    """What was seen and heard in those SHOWN_WINDOWS windows of a file that look most fake, in order of time."""

    starts_s: tuple[float, ...]
    crops: NDArray[np.uint8] = field(repr=False)
    """(windows, frames, S, S, 3) RGB, spread evenly over a window"""
    spectrogram: NDArray[np.float32] = field(repr=False)
    """(windows, bands, hops), ln power"""


@dataclass(frozen=True)
class Explained:
    """A prediction with its explanation, and what to show beside it; None where the file could not be scored."""

    prediction: Prediction
    looked_at: LookedAt | None


class Explainer:
    """Explains one file, which it is given a stretch of windows at a time."""

    def __init__(self, params: Params, rows: Rows, scores: Scores) -> None:
        self._params, self._rows, self._scores = params, rows, scores
        self._moments: list[Moment] = []
        self._whole: list[NDArray[np.float64]] = []
        self._without: dict[str, list[NDArray[np.float64]]] = {}
        self._most_fake: list[tuple[float, float, Window, Layers]] = []
        """(P(fake), start_s, what it holds, its layers (1, L, C_in)), the most fake first."""
        self._heard = True

    def add(self, walked: Walked) -> None:
        """Takes in the windows of a stretch."""
        layers = walked.layers
        whole = self._scores("fusion", layers)
        self._heard = walked.has_audio
        self._whole.append(whole)
        for name, x in layers.items():
            if walked.has_audio or not name.startswith("audio"):
                self._without.setdefault(name, []).append(self._scores("fusion", {**layers, name: np.zeros_like(x)}))
        for w, start_s in enumerate(walked.starts_s):
            own = {name: x[w : w + 1] for name, x in layers.items()}
            self._moments += self._moments_of(own, float(whole[w]), start_s, walked.available_s)
            window = {name: x[w] for name, x in walked.arrays.items()}
            self._most_fake.append((float(whole[w]), start_s, window, own))
        self._most_fake = sorted(self._most_fake, key=lambda each: -each[0])[:SHOWN_WINDOWS]

    def explanation(self) -> Explanation:
        """What the score hangs on."""
        whole = float(np.concatenate(self._whole).mean())
        _, start_s, window, layers = self._most_fake[0]
        return Explanation(
            window_s=start_s,
            moments=tuple(self._moments),
            layers={name: effect(whole, float(np.concatenate(of).mean())) for name, of in self._without.items()},
            regions=self._regions(window, layers),
            bands=tuple(self._bands(window, layers)) if self._heard else (),
        )

    def looked_at(self) -> LookedAt:
        """What there is to show beside it."""
        shown = sorted(self._most_fake, key=lambda each: each[1])
        return LookedAt(
            tuple(start_s for _, start_s, _, _ in shown),
            np.stack([window["crops"] for _, _, window, _ in shown]),
            np.stack([window["spectrogram"] for _, _, window, _ in shown]),
        )

    def _moments_of(self, layers: Layers, whole: float, start_s: float, available_s: float) -> Iterator[Moment]:
        """Of each position that is not shown a second time, as the end of a short clip's window may be."""
        length = self._params.features.length
        scores = self._scores("fusion", {name: without_positions(x[0]) for name, x in layers.items()})
        step_s = self._params.windows.window_s / length
        for position, score in enumerate(scores.tolist()):
            first, last = position * step_s, min((position + 1) * step_s, available_s)
            if first < last:
                yield Moment(round(start_s + first, 6), round(start_s + last, 6), effect(whole, score))

    def _regions(self, window: Window, layers: Layers) -> dict[str, float]:
        masks = face_regions(window, self._params.faces)
        parts = {name: {**window, "crops": without_pixels(window["crops"], mask)} for name, mask in masks.items()}
        return self._effects(parts, "visual", layers)

    def _bands(self, window: Window, layers: Layers) -> Iterator[Band]:
        params = self._params.spectrograms
        parts = {band: without_band(window, *band, params) for band in bands(params)}
        for (low_hz, high_hz), of_band in self._effects(parts, "audio", layers).items():
            yield Band(low_hz, high_hz, of_band)

    def _effects(self, parts: Mapping[_Part, Window], modality: Modality, layers: Layers) -> dict[_Part, float]:
        """Of each of these windows in place of the one with these layers, but for those that no cache would hold."""
        changed, refused = self._rows(dict(enumerate(parts.values())), (modality,))
        repeated = {name: np.repeat(x, len(parts), axis=0) for name, x in layers.items()}
        scores = self._scores("fusion", {**repeated, **changed})
        (whole,) = self._scores("fusion", layers)
        return {part: effect(whole, scores[i]) for i, part in enumerate(parts) if i not in refused}


def effect(whole: float, without: float) -> float:
    """By how much log10 odds fall from one P(fake) to the other."""
    one, other = (min(max(p, _SUREST), 1 - _SUREST) for p in (whole, without))
    return float(np.log10(one / (1 - one)) - np.log10(other / (1 - other)))


def without_positions(x: NDArray[Any]) -> NDArray[Any]:
    """(L, L, C) of (L, C): in row i, position i is the mean of the others."""
    length = len(x)
    others = (x.sum(axis=0, dtype=np.float64) - x) / max(1, length - 1)
    here = np.eye(length, dtype=bool)[..., None]
    return np.where(here, others[:, None].astype(x.dtype), x[None])
