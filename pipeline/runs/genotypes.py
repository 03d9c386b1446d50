"""Genotypes as people handle them: found in a run's files, and compared."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cache_schemas.run import NetworkName, RetrainRun, RunFileError, SearchRun, read_run
from nas import Cell, Genotype
from nas.genotype import is_layer


@dataclass(frozen=True)
class Found:
    """A genotype, and every layer that its search could choose from (those that it reads, where nobody knows)."""

    genotype: Genotype
    layers: tuple[str, ...]


def find_genotype(path: Path, network: NetworkName = "fusion", seed: int | None = None) -> Found:
    """The genotype in `path`: a genotype's own JSON, or that of one entry of a search.json (its best) or retrain.json.

    seed: None takes the first entry. Raises RunFileError, which says what the file offers.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFileError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(content, dict) or not content.keys() & {"cells", "entries"}:
        raise RunFileError(f"{path} is none of: a genotype, a search.json, a retrain.json")
    if "cells" in content:
        genotype = _genotype(path, content)
        return Found(genotype, tuple(genotype.layers()))
    entries = (read_run(path, RetrainRun) if "params" in content else read_run(path, SearchRun)).entries
    offered = [entry for entry in entries if entry.network == network and seed in (None, entry.seed)]
    if not offered:
        known = ", ".join(f"{entry.network} {entry.seed}" for entry in entries)
        wanted = network if seed is None else f"{network} {seed}"
        raise RunFileError(f"{path} has no entry {wanted}; it has (network and seed): {known}")
    genotype = _genotype(path, offered[0].genotype)
    cells = getattr(offered[0], "probabilities", None) or []
    choosable = [name for cell in cells for name in cell["inputs"] if is_layer(name)]
    return Found(genotype, tuple(dict.fromkeys([*choosable, *genotype.layers()])))


def differences(old: Genotype, new: Genotype) -> list[tuple[str, str, str]]:
    """(place, old choice, new choice) wherever two architectures differ; "-": not there."""
    before, after = (dict(_choices(genotype)) for genotype in (old, new))
    places = list(dict.fromkeys([*before, *after]))
    pairs = [(place, before.get(place, "-"), after.get(place, "-")) for place in places]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _choices(genotype: Genotype) -> Iterator[tuple[str, str]]:
    for i, cell in enumerate(genotype.cells, 1):
        yield from _inputs(f"cell {i}", cell)
        for t, step in enumerate(cell.steps, 1):
            yield from _inputs(f"cell {i}, step {t}", step)
            yield f"cell {i}, step {t}: operation", step.operation


def _inputs(place: str, node: Cell | Any) -> Iterator[tuple[str, str]]:
    yield f"{place}: x", node.x
    yield f"{place}: y", node.y


def _genotype(path: Path, content: dict[str, Any]) -> Genotype:
    try:
        return Genotype.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RunFileError(f"{path}: genotype, {where or 'as a whole'}: {first['msg']}") from None
