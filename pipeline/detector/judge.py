"""From the numbers of a file's windows to what is said of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache_schemas.evidence import Evidence
from cache_schemas.run import NETWORKS, NetworkName
from pipeline.detector.people import Face
from pipeline.detector.prediction import Person, Prediction, WindowScore
from pipeline.detector.quality import quality, sound_ends_hz
from pipeline.detector.road import DetectorError, Walked
from pipeline.features.amounts import seconds_above
from pipeline.params import Params
from pipeline.runs.unlike import MODALITIES
from pipeline.statistics.answers import Answer, answer, calibration_of, cannot_tell, shapley


@dataclass(frozen=True)
class Looked:
    """What is kept of one face's windows in a stretch of a file: numbers, whatever its length."""

    starts_s: tuple[float, ...]
    face_windows: float
    scores: Mapping[NetworkName, NDArray[np.float64]]
    """(seeds, windows)"""
    distances: Mapping[str, NDArray[np.float64]]
    """By modality, (windows,)"""


@dataclass(frozen=True)
class Stretch:
    """What is kept of a stretch."""

    walked: Walked
    main: Looked
    faces: tuple[Looked, ...]
    """Of `walked.faces`"""


class Judge:
    """Knows what a detector's scores are worth. Several threads may ask it at once."""

    def __init__(self, params: Params, evidence: Evidence) -> None:
        """Raises DetectorError where the curve of a calibration is none."""
        self._params, self._evidence = params, evidence
        for network, system in evidence.systems.items():
            try:
                calibration_of(system)
            except ValueError as error:
                raise DetectorError(f"evidence.json: {network}: {error}: run `bmnas evaluate` again") from error

    def __call__(self, path: str, stretches: Sequence[Stretch]) -> Prediction:
        """What is said of a file by all its stretches."""
        walked = [each.walked for each in stretches]
        numbers, power = (np.concatenate([each.powers[k] for each in walked]) for k in (0, 1))
        at = {start: i for i, start in enumerate(start for each in walked for start in each.looked_at_s)}
        has_audio = walked[0].has_audio

        def speech_s(starts_s: Iterable[float]) -> float:
            windows = [at[start] for start in starts_s]
            return seconds_above(numbers, power, self._params.windows.silence_db, windows=windows) if has_audio else 0.0

        main = self._told([each.main for each in stretches], walked[0].planned, speech_s(at))
        faces: dict[int, list[tuple[Face, Looked]]] = {}
        for each in stretches:
            for face, looked in zip(each.walked.faces, each.faces, strict=True):
                faces.setdefault(face.number, []).append((face, looked))
        mains = {number for number, of in faces.items() if any(face.is_main for face, _ in of)}
        people = [of for number, of in faces.items() if len(mains) > 1 or number not in mains]
        answers, known = main["modalities"], main["quantities"]
        rate = self._params.spectrograms.sample_rate_hz
        return Prediction(
            path,
            **main,
            shares=shapley(main["answer"], *(answers[modality] for modality in MODALITIES)),
            quality=quality(
                self._params.faces,
                face_px=float(np.median([each.face_px for each in walked])),
                face_share=known["face_share"],
                fps=walked[0].fps,
                pictures=walked[0].pictures,
                speech_s=known["speech_s"] if has_audio else None,
                ends_hz=sound_ends_hz(np.mean([each.spectrum for each in walked], axis=0), rate),
                listens_to_hz=rate / 2,
            ),
            people=tuple(self._person(of, speech_s) for of in people),
        )

    def _person(self, of: Sequence[tuple[Face, Looked]], speech_s: Callable[[Iterable[float]], float]) -> Person:
        starts = [start for face, _ in of for start in face.starts_s]
        told = self._told([looked for _, looked in of], len(starts), speech_s(starts))
        return Person(min(face.first_s for face, _ in of), max(face.last_s for face, _ in of), **told)

    def _told(self, looked: Sequence[Looked], planned: int, speech_s: float) -> dict[str, Any]:
        """What `Prediction` and `Person` have in common; planned: so many windows there are to show the face in."""
        known = {"face_share": sum(each.face_windows for each in looked) / planned, "speech_s": speech_s}
        for modality in MODALITIES:
            distances = [each.distances[modality] for each in looked if modality in each.distances]
            known[f"{modality}_distance"] = float(np.median(np.concatenate(distances))) if distances else math.nan
        scores = {name: np.concatenate([each.scores[name] for each in looked], axis=1) for name in looked[0].scores}
        said = {name: self._said(name, scores.get(name, np.zeros((0, 0))), known) for name in NETWORKS}
        fusion, starts = scores["fusion"], [start for each in looked for start in each.starts_s]
        quantities = known | {"spread": _spread(fusion)}
        return {
            "score": float(fusion.mean()),
            "windows": tuple(map(WindowScore, starts, fusion.mean(axis=0).tolist())),
            "answer": said.pop("fusion"),
            "modalities": {str(name): each for name, each in said.items()},
            "quantities": {name: value if math.isfinite(value) else None for name, value in quantities.items()},
        }

    def _said(self, network: NetworkName, scores: NDArray[np.float64], known: Mapping[str, float]) -> Answer:
        """What one network says; scores: (seeds, windows)."""
        if not len(scores):
            return cannot_tell("no such network was trained")
        if network in self._evidence.systems:
            return answer(float(scores.mean()), {**known, "spread": _spread(scores)}, self._evidence.systems[network])
        why = self._evidence.undefined.get(network, "what its score is worth was not measured")
        return cannot_tell(why, score=float(scores.mean()))


def _spread(scores: NDArray[np.float64]) -> float:
    """Largest minus smallest mean of (seeds, windows); NaN for one seed."""
    return float(np.ptp(scores.mean(axis=1))) if len(scores) > 1 else math.nan
