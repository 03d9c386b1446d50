"""What a run leaves behind: searched genotypes, retrained networks, metrics. All JSON, no pickle.

work/search/search.json      SearchRun: one entry per network and seed
work/retrain/retrain.json    RetrainRun: the same, with the weights' file (safetensors) beside it
work/evaluate/metrics.json   see pipeline.runs.evaluate
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, Field, ValidationError

from cache_schemas.files import write_text

NetworkName = Literal["fusion", "visual", "audio"]
NETWORKS: tuple[NetworkName, ...] = ("fusion", "visual", "audio")
"""The searched network, and the same search on one modality's features alone: the references to beat."""


class RunFileError(ValueError):
    """A run's file is missing or does not say what it must; the message names file, field and remedy."""


class _Record(BaseModel, extra="forbid", frozen=True):
    """Part of a run's file."""


class Failure(_Record):
    """A run that has no result, and why; name: its network, architecture or method."""

    name: str
    seed: int
    reason: str


class SearchEntry(_Record):
    """One search: `curves` holds one dict an epoch, `probabilities` the choice probabilities at its end.

    `history` holds those of every epoch, as `history_of` writes them. `warnings` says what the choices have collapsed
    to, if to anything. `score`: val AUC of the genotype, with the weights that all share.
    """

    network: NetworkName
    seed: int
    genotype: dict[str, Any]
    curves: list[dict[str, float | None]]
    probabilities: list[dict[str, Any]]
    history: dict[str, dict[str, list[float]]] = {}
    warnings: list[str] = []
    score: float | None = None


def sites(cells: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """{site: {option: probability}} of one run's probabilities, cell by cell."""
    found: dict[str, dict[str, float]] = {}
    for i, cell in enumerate(cells, 1):
        found |= _slots(f"cell {i}", cell)
        for t, step in enumerate(cell["steps"], 1):
            found |= _slots(f"cell {i}, step {t}", step)
            found[f"cell {i}, step {t}: operation"] = dict(step["operations"])
    return found


def _slots(site: str, node: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    if "skip" in node:
        return {f"{site}: inputs (skip)": dict(zip(node["inputs"], node["skip"], strict=True))}
    return {f"{site}: {slot}": dict(zip(node["inputs"], node[slot], strict=True)) for slot in ("x", "y")}


def history_of(epochs: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[float]]]:
    """{site: {option: probability after each epoch}}, four digits; epochs: the probabilities after each."""
    rows = [sites(cells) for cells in epochs]
    return {
        site: {option: [round(row[site][option], 4) for row in rows] for option in options}
        for site, options in rows[0].items()
    }


class RetrainEntry(_Record):
    """One retrained network: `spec` rebuilds it, `weights` is a safetensors file beside the JSON."""

    network: NetworkName
    seed: int
    genotype: dict[str, Any]
    spec: dict[str, Any]
    weights: str = Field(pattern=r"^[\w-]+\.safetensors$")  # a name beside the JSON, never a path
    best_epoch: int
    curves: list[dict[str, float | None]]


class _RunFile(_Record):
    """cache: the identity of the cache that it was computed on, "" where a run of old did not say."""

    schema_version: Literal[1] = 1
    cache: str = ""
    failed: list[Failure] = []


class SearchRun(_RunFile):
    """work/search/search.json"""

    entries: list[SearchEntry]


class RetrainRun(_RunFile):
    """work/retrain/retrain.json; `params` is the whole parameter set, so that `predict` walks the same road."""

    params: dict[str, Any]
    backbones: dict[str, Any]
    entries: list[RetrainEntry]


_Run = TypeVar("_Run", bound=BaseModel)


def read_run(path: Path, kind: type[_Run]) -> _Run:
    """What `path` describes; raises RunFileError when it is missing or malformed."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFileError(f"{path} does not exist: run `bmnas {path.stem}` first") from None  # search.json, ...
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunFileError(f"{path}: field {where or '(file)'}: {first['msg']}") from None


def read_json(path: Path, command: str) -> dict[str, Any]:
    """What `bmnas COMMAND` wrote there; raises RunFileError when it is missing or no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it is {type(content).__name__}")
    except FileNotFoundError:
        raise RunFileError(f"{path} does not exist: run `bmnas {command}` first") from None
    except ValueError as error:
        raise RunFileError(f"{path} cannot be read as a JSON object: {error}: run `bmnas {command}` again") from None
    return content


def write_run(path: Path, run: SearchRun | RetrainRun) -> None:
    """Replaces `path` by the run's JSON."""
    write_text(path, run.model_dump_json(indent=1) + "\n")
