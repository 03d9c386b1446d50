"""What a run leaves behind: searched genotypes, retrained networks, metrics. All JSON, no pickle.

work/search/search.json      SearchRun: one entry per network and seed
work/retrain/retrain.json    RetrainRun: the same, with the weights' file (safetensors) beside it
work/evaluate/metrics.json   see pipeline.evaluate
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cache_schemas.files import write_text

NetworkName = Literal["fusion", "visual", "audio"]
NETWORKS: tuple[NetworkName, ...] = ("fusion", "visual", "audio")
"""The searched network, and the same search on one modality's features alone: the references to beat."""


class RunFileError(ValueError):
    """A run's file is missing or does not say what it must; the message names file, field and remedy."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SearchEntry(_Record):
    """One search: `curves` holds one dict an epoch, `probabilities` the choice probabilities at its end.

    `warnings` says what the choices have collapsed to, if to anything.
    """

    network: NetworkName
    seed: int
    genotype: dict[str, Any]
    curves: list[dict[str, float | None]]
    probabilities: list[dict[str, Any]]
    warnings: list[str] = []


class RetrainEntry(_Record):
    """One retrained network: `spec` rebuilds it, `weights` is a safetensors file beside the JSON."""

    network: NetworkName
    seed: int
    genotype: dict[str, Any]
    spec: dict[str, Any]
    weights: str = Field(pattern=r"^[\w-]+\.safetensors$")  # a name beside the JSON, never a path
    best_epoch: int
    curves: list[dict[str, float | None]]


class SearchRun(_Record):
    """work/search/search.json"""

    schema_version: Literal[1] = 1
    entries: list[SearchEntry]


class RetrainRun(_Record):
    """work/retrain/retrain.json; `params` is the whole parameter set, so that `predict` walks the same road."""

    schema_version: Literal[1] = 1
    params: dict[str, Any]
    backbones: dict[str, Any]
    entries: list[RetrainEntry]


_Run = TypeVar("_Run", SearchRun, RetrainRun)


def read_run(path: Path, kind: type[_Run]) -> _Run:
    """The run that `path` describes; raises RunFileError when it is missing or malformed."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        stage = "search" if kind is SearchRun else "retrain"
        raise RunFileError(f"{path} does not exist: run `bmnas {stage}` first") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunFileError(f"{path}: field {where or '(file)'}: {first['msg']}") from None


def write_run(path: Path, run: SearchRun | RetrainRun) -> None:
    """Replaces `path` by the run's JSON."""
    write_text(path, run.model_dump_json(indent=1) + "\n")
