"""What turns a network's scores into an answer: work/evaluate/evidence.json, and unlike.safetensors beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, FiniteFloat, SerializerFunctionWrapHandler, model_serializer, model_validator

from cache_schemas.files import digest, file_sha256, write_text
from cache_schemas.run import NetworkName, RunFileError, missing, read_run

MOST_LOG10_LR = 100
"""No number of clips supports more; beyond 308, 10 to that power is no number of a computer's."""


class _Record(BaseModel, extra="forbid", frozen=True):
    """Part of the file."""


class SystemEvidence(_Record):
    """What the score of one network, the mean over its seeds and a clip's windows, is worth, by clips that it knew not.

    points: see `pipeline.statistics.strength.Calibration`; low, high: the most that is ever claimed, log10 LR;
    threshold: P(fake) at or above which a clip is called fake; limits: what the quantities of `statistics.limits` must
    keep to, None where val cannot say; protocol: whose left-out clips these were, "" if they are those of val.
    """

    kind: Literal["logistic", "isotonic"]
    points: list[tuple[FiniteFloat, FiniteFloat]] = Field(min_length=1)
    low: FiniteFloat = Field(ge=-MOST_LOG10_LR, le=0)
    high: FiniteFloat = Field(ge=0, le=MOST_LOG10_LR)
    threshold: FiniteFloat
    limits: dict[str, FiniteFloat | None]
    n_real: int
    n_fake: int
    protocol: str = Field("", max_length=100)

    @property
    def by(self) -> str:
        """The clips that it was calibrated on, in words."""
        left_out = f"clips left out in turn, protocol {self.protocol}"
        return f"{self.n_real} real and {self.n_fake} fake {left_out if self.protocol else 'validation clips'}"

    @model_serializer(mode="wrap")
    def _as_before(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an empty `protocol`: what was written when there was none keeps its digest."""
        found: dict[str, Any] = plain(self)
        return found if self.protocol else {name: value for name, value in found.items() if name != "protocol"}

    @model_validator(mode="after")
    def _curve(self) -> Self:
        scores = [score for score, _ in self.points]
        if self.kind == "isotonic" and scores != sorted(scores):
            raise ValueError("points of an isotonic calibration go from low scores to high ones")
        return self


class Evidence(_Record):
    """work/evaluate/evidence.json

    retrained: names the networks that it is of; undefined: {network: why nothing can be said by it}; unlike: the
    SHA-256 of unlike.safetensors; own: the digest of all the rest, so that a change by hand shows.
    """

    schema_version: Literal[1] = 1
    retrained: str
    systems: dict[NetworkName, SystemEvidence]
    undefined: dict[NetworkName, str]
    unlike: str
    own: str = ""

    def signed(self) -> Self:
        """The same with its digest."""
        return self.model_copy(update={"own": self._digest()})

    def _digest(self) -> str:
        return digest(self.model_dump(mode="json", exclude={"own"}))

    @model_validator(mode="after")
    def _unchanged(self) -> Self:
        if self.own and self.own != self._digest():
            raise ValueError("it was changed after `bmnas evaluate` wrote it; run that again")
        return self


def write_evidence(folder: Path, evidence: Evidence) -> None:
    """Replaces the folder's evidence.json."""
    write_text(folder / "evidence.json", evidence.signed().model_dump_json(indent=1) + "\n")


def read_evidence(folder: Path, *, retrained: str) -> Evidence:
    """What `evaluate` wrote there; raises RunFileError when it is missing, changed, or of other networks."""
    path, matrices = folder / "evidence.json", folder / "unlike.safetensors"
    if not path.exists():
        raise missing(path, "evaluate")
    found = read_run(path, Evidence)
    if not found.own:
        raise RunFileError(f"{path}: field own is empty: run `bmnas evaluate` again")
    if found.retrained != retrained:
        raise RunFileError(f"{path} is of other networks than those in retrain.json: run `bmnas evaluate` again")
    if not matrices.exists() or file_sha256(matrices) != found.unlike:
        raise RunFileError(f"{matrices} is not the file that {path.name} names: run `bmnas evaluate` again")
    return found
