"""Command `sweep`: a grid of searches over one cache, every run once, in batches."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import yaml
from pydantic import ValidationError

import nas
from cache_schemas.files import write_text
from cache_schemas.runs import SearchRow, TrainingRow
from cache_schemas.tables import write_table
from nas.genotype import notation
from pipeline.figures.experiments import standalone, sweep_svg
from pipeline.params import Params, ParamsError
from pipeline.runs.cache import Source, open_cache
from pipeline.runs.keys import settings_of
from pipeline.runs.looks import mark
from pipeline.runs.retrain import Training, train
from pipeline.runs.search import search_all
from pipeline.workspace import Workspace

ENTROPIES = ("entropy_cells", "entropy_steps", "entropy_operations")


@dataclass(frozen=True)
class Grid:
    """The axes of a sweep: {SearchConfig field: its values}, and the seeds of every point."""

    axes: Mapping[str, tuple[Any, ...]]
    seeds: tuple[int, ...]

    @classmethod
    def parse(cls, given: Sequence[str], seeds: int, base: nas.SearchConfig) -> Grid:
        """The grid that texts as "temperature=1,5,10" describe; raises ParamsError naming what is allowed."""
        axes: dict[str, tuple[Any, ...]] = {}
        for text in given:
            name, equals, values = text.partition("=")
            if name not in nas.SearchConfig.model_fields or not equals or name in axes or name == "device":
                allowed = ", ".join(field for field in nas.SearchConfig.model_fields if field != "device")
                raise ParamsError(
                    f"command line: --grid {text}: allowed: FIELD=VALUE,VALUE,..., each field once, of {allowed}"
                )
            axes[name] = tuple(_value(base, name, value, text) for value in _list(values, text))
        if not axes:
            raise ParamsError("command line: a sweep needs at least one --grid FIELD=VALUE,VALUE,...")
        return cls(axes, tuple(range(seeds)))

    def configs(self, base: nas.SearchConfig) -> list[nas.SearchConfig]:
        """One config per point of the grid."""
        points = itertools.product(*self.axes.values())
        return [base.model_copy(update=dict(zip(self.axes, point, strict=True))) for point in points]


def run_sweep(workspace: Workspace, params: Params, grid: Grid, *, retrain: bool) -> pd.DataFrame:
    """One row a run; writes sweep.csv, summary.csv (mean and spread over seeds) and sweep.svg."""
    source = Source.of(workspace, params)
    configs = grid.configs(params.search)
    searches = [(config, seed) for config in configs for seed in grid.seeds]
    rows = search_all("sweep", source, searches)
    found = [_training(row) for row in rows if row.found is not None]
    trained = train("sweep, retrained", source, found, test=True) if retrain and found else {}
    if trained:
        _mark(source, configs, grid.seeds)
    table = pd.DataFrame([_row(grid, row, trained) | {"cache": source.identity} for row in rows])
    columns = {"val_auc": "validation AUC at the end of the search", "entropy": "entropy of the choices, 1: uniform"}
    if retrain:
        columns = {"retrained_test_auc": "test AUC, retrained", **columns}
    write_table(workspace.sweep / "sweep.csv", table)
    write_table(workspace.sweep / "summary.csv", _summary(table, list(grid.axes), list(columns)))
    write_text(workspace.sweep / "sweep.svg", standalone(sweep_svg(table, list(grid.axes), columns)))
    return table


def _mark(source: Source, configs: Sequence[nas.SearchConfig], seeds: Sequence[int]) -> None:
    """A look a point of the grid: whoever reads the table can choose among so many."""
    workspace, params = Workspace(source.work), source.params
    index = open_cache(workspace, params).index
    for config in configs:
        mark(workspace, index, "sweep", source.identity, settings_of(config), settings_of(params.retrain), seeds)


def _training(row: SearchRow) -> Training:
    """What a search that is well asks to be trained."""
    assert row.found is not None  # noqa: S101 - the callers look
    return nas.Genotype.model_validate(row.found.genotype), row.seed


def _row(grid: Grid, row: SearchRow, trained: Mapping[Training, TrainingRow]) -> dict[str, Any]:
    last = row.found.curves[-1] if row.found else {}
    entropies = {name: last.get(name) for name in ENTROPIES}
    known = [value for value in entropies.values() if value is not None]
    cells = {
        **{name: _text(row.settings[name]) for name in grid.axes},
        "seed": row.seed,
        "val_auc": row.found.score if row.found else None,
        "entropy": sum(known) / len(known) if known else None,
        **entropies,
        "architecture": "",
        "genotype": "",
        "failed": row.failed,
    }
    if row.found is None:
        return cells
    genotype, _ = _training(row)
    cells |= {"architecture": notation(genotype), "genotype": json.dumps(row.found.genotype)}
    if trained:
        training = trained[_training(row)]
        cells |= {"retrained_val_auc": training.val_auc, "retrained_test_auc": training.test_auc}
        cells |= {"failed": f"retrained: {training.failed}"} if training.failed else {}
    return cells


def _summary(table: pd.DataFrame, axes: list[str], columns: list[str]) -> pd.DataFrame:
    """Mean, standard deviation and count over the seeds of every point: what `dvc plots` draws."""
    grouped = table.groupby(axes, sort=False)[columns].agg(["mean", "std", "count"])
    pairs = itertools.product(columns, ("mean", "std", "count"))
    grouped.columns = pd.Index([column if kind == "mean" else f"{column}_{kind}" for column, kind in pairs])
    return grouped.reset_index()


def _list(values: str, text: str) -> list[Any]:
    try:
        parsed = yaml.safe_load(f"[{values}]")
    except yaml.YAMLError:
        parsed = []
    if not parsed:
        raise ParamsError(f"command line: --grid {text}: {values!r} is no list of values as 1,5,10")
    return list(parsed)


def _value(base: nas.SearchConfig, name: str, value: Any, text: str) -> Any:
    try:
        return getattr(nas.SearchConfig.model_validate({**base.model_dump(), name: value}), name)
    except ValidationError as error:
        raise ParamsError(f"command line: --grid {text}: {value!r}: {error.errors()[0]['msg']}") from None


def _text(value: Any) -> Any:
    """A value for a CSV cell: lists as JSON."""
    return json.dumps(value) if isinstance(value, list | dict) else value
