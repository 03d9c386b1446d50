"""What a run leaves behind: searched genotypes, retrained networks, metrics. All JSON, no pickle.

work/search/search.json      SearchRun: one entry per network and seed, with the genotypes that the search gives
work/retrain/retrain.json    RetrainRun: one entry per genotype, with the weights' file (safetensors) beside it
work/evaluate/metrics.json   see pipeline.runs.evaluate
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

from cache_schemas.files import write_text

NetworkName = Literal["fusion", "visual", "audio"]
NETWORKS: tuple[NetworkName, ...] = ("fusion", "visual", "audio")
"""The searched network, and the same search on one modality's features alone: the references to beat."""


class RunFileError(ValueError):
    """A run's file is missing or does not say what it must; the message names file, field and remedy."""


def missing(path: Path, command: str) -> RunFileError:
    """What every reader says of a file that is not there; command: which writes it."""
    return RunFileError(f"{path} does not exist: run `bmnas {command}` first")


class _Record(BaseModel, extra="forbid", frozen=True):
    """Part of a run's file."""


class Failure(_Record):
    """A run that has no result, and why; name: its network, architecture or method."""

    name: str
    seed: int
    reason: str


class Member(_Record):
    """One genotype of a search.

    `score`: its val AUC with the weights that all share; `trained`: what it was judged by once it was really trained
    for a few epochs, None where it was not.
    """

    genotype: dict[str, Any]
    score: float | None = None
    trained: float | None = None


class SearchEntry(_Record):
    """One search: `members`, the best first, are its genotypes; `curves` holds one dict an epoch.

    `probabilities` are the choice probabilities at its end; `history` holds those of every epoch, as `history_of`
    writes them. `warnings` says what the choices have collapsed to, if to anything.
    """

    network: NetworkName
    seed: int
    members: list[Member] = Field(min_length=1)
    curves: list[dict[str, float | None]]
    probabilities: list[dict[str, Any]]
    history: dict[str, dict[str, list[float]]] = {}
    warnings: list[str] = []

    @model_validator(mode="before")
    @classmethod
    def _of_version_1(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "members" in content:
            return content
        member = {name: content[name] for name in ("genotype", "score") if name in content}
        return {name: value for name, value in content.items() if name not in member} | {"members": [member]}

    @property
    def genotype(self) -> dict[str, Any]:
        """That of the best member."""
        return self.members[0].genotype

    @property
    def score(self) -> float | None:
        """That of the best member."""
        return self.members[0].score


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
    """One retrained network, a member of the detector: `spec` rebuilds it, `weights` is a safetensors file beside it.

    `seed` is that of its training, another one for each network of a name; `search` that of the search it comes from,
    None in files of old, where both were one.
    """

    network: NetworkName
    seed: int
    search: int | None = None
    genotype: dict[str, Any]
    spec: dict[str, Any]
    weights: str = Field(pattern=r"^[\w-]+\.safetensors$")  # a name beside the JSON, never a path
    best_epoch: int
    curves: list[dict[str, float | None]]


class _RunFile(_Record):
    """cache: the identity of the cache that it was computed on, "" where a run of old did not say."""

    cache: str = ""
    failed: list[Failure] = []


class SearchRun(_RunFile):
    """work/search/search.json; what is read of version 1, with one genotype an entry, is one of version 2."""

    schema_version: Annotated[Literal[1, 2], AfterValidator(lambda _: 2)] = 2
    entries: list[SearchEntry]


class RetrainRun(_RunFile):
    """work/retrain/retrain.json; `params` is the whole parameter set, so that `predict` walks the same road."""

    schema_version: Literal[1] = 1
    params: dict[str, Any]
    backbones: dict[str, Any]
    entries: list[RetrainEntry]


_Run = TypeVar("_Run", bound=BaseModel)


def read_run(path: Path, kind: type[_Run]) -> _Run:
    """What `path` describes; raises RunFileError when it is missing or malformed."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise missing(path, path.stem) from None  # search.json, ...
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
        raise missing(path, command) from None
    except ValueError as error:
        raise RunFileError(f"{path} cannot be read as a JSON object: {error}: run `bmnas {command}` again") from None
    return content


def write_run(path: Path, run: SearchRun | RetrainRun) -> None:
    """Replaces `path` by the run's JSON."""
    write_text(path, run.model_dump_json(indent=1) + "\n")
