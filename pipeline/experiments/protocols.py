"""Command `protocol`: what is worth on clips of which nothing like was seen, and what was like what is seen.

work/protocols/NAME/table.csv     one row a training, what it was tested on, and a method
work/protocols/NAME/protocol.json the same, the protocol itself, and what could not be trained
work/protocols/NAME/scores.csv    P(fake) of every tested clip, method and seed
work/protocols/NAME/people.csv    who learnt, chose and was tested in every fold
work/protocols/NAME/heatmap.svg   trainings by methods, or by what they were tested on
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cache_schemas.files import write_json, write_text
from cache_schemas.manifest import Clip, read_manifest, read_unused
from cache_schemas.protocol import PROTOCOL_VERSION
from cache_schemas.runs import ScoredRow
from cache_schemas.tables import write_table
from pipeline.compute.progress import console
from pipeline.controls.properties import property_scores
from pipeline.experiments.folds import Fold, Protocol, Skipped, folds_of
from pipeline.experiments.methods import methods, searches
from pipeline.experiments.scored import Split, run_methods
from pipeline.figures.experiments import protocol_svg, standalone
from pipeline.params import Params, ParamsError
from pipeline.runs.cache import Source, clip_index, open_cache
from pipeline.runs.jobs import JobError
from pipeline.runs.keys import made_by, settings_of
from pipeline.runs.looks import mark
from pipeline.statistics.means import MEANS
from pipeline.statistics.protocol import (
    every_test,
    measure_protocol,
    plain_rows,
    thresholds_carry_over,
    val_thresholds,
    what_is_added,
)
from pipeline.statistics.systems import PROBE, RANDOM_WEIGHTS
from pipeline.statistics.tables import clips as one_a_clip
from pipeline.workspace import Workspace


@dataclass(frozen=True)
class Outcome:
    """table: the rows of table.csv; adds, carry_over: of `what_is_added` and `thresholds_carry_over`, both of the first
    method.
    """

    table: pd.DataFrame
    adds: dict[str, Any] | None
    skipped: Sequence[Skipped]
    carry_over: dict[str, Any] | None = None


def run_protocol(workspace: Workspace, params: Params, name: str, protocol: Protocol) -> Outcome:
    """What a protocol comes to; finished runs are not done again.

    Raises ManifestError when the clips allow no training, ParamsError for a method that there is not.
    """
    source = Source.of(workspace, params)
    index = clip_index(workspace, open_cache(workspace, params))
    there = set(index["clip_id"])
    clips = [clip for clip in read_manifest(workspace.manifest) if clip.clip_id in there]
    found = folds_of(protocol, clips, seed=params.seed)
    folds = [each for each in found if isinstance(each, Fold)]
    skipped = [each for each in found if isinstance(each, Skipped)]
    names = _method_names(protocol, source)
    _say_unused(workspace, name)
    place = index["clip_id"].map({clip.clip_id: i for i, clip in enumerate(clips)}).to_numpy()
    splits = [tuple(np.array(fold.split, object)[place]) for fold in folds]
    rows = run_methods(f"protocol {name}", source, splits, set(names.values()))
    random, random_rows = _random_weights(name, source, splits, names)
    of_clip = one_a_clip(index).loc[[clip.clip_id for clip in clips]]
    parts = [
        _scores(
            fold,
            list(zip(clips, of_clip["label"], strict=True)),
            [
                *_by_clip(index, split, of_fold, names),
                *_by_clip(index, split, of_random, random),
                property_scores(of_clip, fold.split),
            ],
        )
        for fold, split, of_fold, of_random in zip(folds, splits, rows, random_rows, strict=True)
    ]
    scores = pd.concat(parts, ignore_index=True)
    reasons = [row.failed for of_fold in rows for of_method in of_fold.values() for row in of_method]
    if all(reasons):
        raise JobError(f"protocol {name}: every run failed; the first one: {reasons[0]}")
    tests = every_test(scores, seed=params.seed)
    table = measure_protocol(tests).assign(cache=source.identity)
    adds = what_is_added(tests, protocol.methods[0])
    carry_over = thresholds_carry_over(scores, protocol.methods[0]) if protocol.kind == "leave-one-out" else None
    _mark(source, index, name, protocol)
    folder, single = workspace.protocols / name, table[~table["trained_on"].isin(MEANS)]
    write_table(folder / "scores.csv", scores)
    write_table(folder / "people.csv", _people(folds, clips))
    write_table(folder / "table.csv", table)
    content = {
        "schema_version": PROTOCOL_VERSION,
        "protocol": protocol.model_dump(mode="json"),
        "seed": params.seed,
        "cache": source.identity,
        "settings": made_by(params),
        "adds": adds,
        "carry_over": carry_over,
        "rows": plain_rows(table),
        "skipped": [vars(each) for each in skipped],
    }
    write_json(folder / "protocol.json", content)
    write_text(folder / "heatmap.svg", standalone(protocol_svg(single, description=protocol.description)))
    return Outcome(table, adds, skipped, carry_over)


def _say_unused(workspace: Workspace, name: str) -> None:
    if unused := len(read_unused(workspace.unused)):
        console.print(
            f"protocol {name}: {unused} clips take no part: split.kind people left them out (manifest/unused.csv), and "
            "they have no features; split.kind subject keeps them, where people allow it",
            markup=False,
            soft_wrap=True,
        )


def _mark(source: Source, index: pd.DataFrame, name: str, protocol: Protocol) -> None:
    """One look: every clip is tested, those of the cache's own test split among them."""
    params = source.params
    settings = (settings_of(params.search), settings_of(params.retrain), params.seeds, params.seed)
    what = protocol.model_dump(mode="json", exclude={"description"})
    mark(Workspace(source.work), index, f"protocol {name}", source.identity, what, *settings)


def _method_names(protocol: Protocol, source: Source) -> dict[str, str]:
    """{as the protocol calls it: as `methods` does}."""
    own = source.params.search
    known = list(methods(source.windows(), source.params))
    called = {"search": next(name for name, config in searches(own).items() if config == own)}
    found = {name: called.get(name, name) for name in protocol.methods}
    unknown = [name for name, real in found.items() if real not in known]
    if unknown:
        raise ParamsError(f"protocol: methods: {unknown[0]!r}: allowed: search, {', '.join(known)}")
    return found


def _random_weights(
    name: str, source: Source, splits: Sequence[Split], names: Mapping[str, str]
) -> tuple[dict[str, str], Sequence[Mapping[str, list[ScoredRow]]]]:
    """What features that know nothing come to: ({as the table calls it: as `methods` does}, their rows per split).

    A probe in every protocol, and the search where the protocol has it, over the cache's control; nothing without one.
    """
    control = source.control()
    if control is None:
        console.print(f"protocol {name}: without random weights: {source.no_control()}", markup=False, soft_wrap=True)
        return {}, [{} for _ in splits]
    chosen = {called: real for called, real in names.items() if called == "search"} | {PROBE: PROBE}
    rows = run_methods(f"protocol {name}, random weights", control, splits, set(chosen.values()))
    return {f"{RANDOM_WEIGHTS}, {called}": real for called, real in chosen.items()}, rows


def _by_clip(
    index: pd.DataFrame, split: Sequence[str], rows: Mapping[str, Sequence[ScoredRow]], names: Mapping[str, str]
) -> list[pd.DataFrame]:
    """clip_id, method, seed, score: the mean P(fake) over a clip's windows, of each run that is well."""
    whose = index.loc[[bool(side) for side in split], "clip_id"].to_numpy()
    return [
        pd.Series(row.scores, whose).groupby(level=0, sort=False).mean().rename("score").rename_axis("clip_id")
        .reset_index().assign(method=name, seed=row.seed)
        for name, real in names.items()
        for row in rows[real]
        if not row.failed
    ]  # fmt: skip


def _scores(fold: Fold, clips: Sequence[tuple[Clip, int]], scores: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of scores.csv; clips: each with its label."""
    rows = [
        (clip.clip_id, side, fold.trained_on, tested_on, clip.subject_id, label)
        for (clip, label), side, tested_on in zip(clips, fold.split, fold.tested_as, strict=True)
        if side in ("val", "test")
    ]
    columns = ["clip_id", "side", "trained_on", "tested_on", "person", "label"]
    found = pd.DataFrame(rows, columns=columns).merge(pd.concat(scores, ignore_index=True), on="clip_id")
    thresholds = val_thresholds(found[found["side"] == "val"])
    tested = found[found["side"] == "test"].drop(columns="side")
    return tested.assign(threshold=tested["method"].map(thresholds))


def _people(folds: Sequence[Fold], clips: Sequence[Clip]) -> pd.DataFrame:
    rows = []
    for number, fold in enumerate(folds):
        sides = {(side, person) for side, clip in zip(fold.split, clips, strict=True) if side for person in clip.people}
        rows += [(number, fold.trained_on, side, person) for side, person in sorted(sides)]
    return pd.DataFrame(rows, columns=["fold", "trained_on", "side", "person"])
