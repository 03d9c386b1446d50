"""Command `robustness`: the test clips, degraded, scored by the trained networks and by the linear probe.

scores.csv        one row per degradation, severity, window, system and seed; degradation "none": the clips as they are
robustness.csv    one row per degradation, severity and system: AUC with its interval
robustness.json   the same, with the clips that are in no point of a curve, and why
robustness.svg    the same, drawn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch

from cache_schemas.features import FeatureCache
from cache_schemas.files import write_json, write_text
from cache_schemas.manifest import Clip
from cache_schemas.run import RetrainRun, read_run
from cache_schemas.tables import write_table
from pipeline.backbones import bare_identity
from pipeline.compute.machine import device_of
from pipeline.compute.progress import console, progress_bar
from pipeline.compute.workers import TasksLostError, run_tasks, session
from pipeline.controls.probes import logistic_regression
from pipeline.figures.experiments import standalone
from pipeline.figures.robustness import robustness_svg
from pipeline.params import Params
from pipeline.robustness.compute import Found, Wanted, compute_one
from pipeline.robustness.degrade import DEGRADATIONS
from pipeline.robustness.plan import Question, choose_clips, conditions_of, plan
from pipeline.robustness.scores import CLEAN, as_table, robustness
from pipeline.runs.cache import clip_index, open_cache
from pipeline.runs.looks import mark, settings_of_networks
from pipeline.runs.scoring import score_windows
from pipeline.shards.stage import StageError
from pipeline.statistics.metrics import UndefinedMetricError
from pipeline.statistics.systems import PROBE
from pipeline.workspace import Workspace

_DEADLY = "each process that took it died: it needs too much memory, or a decoder crashes on it"
_COLUMNS = ["clip_id", "window", "start_s", "subject_id", "category", "method", "label", "clip_category"]
_Layers = dict[str, torch.Tensor]
"""{layer: (N, L, C_in)}"""


def run_robustness(workspace: Workspace, params: Params, question: Question) -> dict[str, Any]:
    """The content of robustness.json; writes work/robustness. What is finished is kept in work/runs.

    Raises StageError when the networks were trained on other backbones than the cache's, or those have other weights
    today, and when there is nothing to test.
    """
    cache = open_cache(workspace, params)
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    _check_backbones(workspace, cache, run)
    index = clip_index(workspace, cache)
    clip_ids = choose_clips(index[index["split"] == "test"], question.clips, seed=params.seed)
    if not clip_ids:
        raise StageError(f"robustness: no clip of {workspace.features} is in the test split: raise split.test")
    wanted = plan(workspace, params, cache, clip_ids, question)
    passing = _compute(wanted, params)
    rows = _Rows(index, cache.load(), clip_ids)
    scored, left_out = _Scored(workspace, run, device_of(params.compute)), []
    scored.add([rows.clean()])
    for name in question.only:
        of_curve = [each for each in wanted if each.degradation == name]
        parts, reasons = rows.curve(name, conditions_of(question), of_curve, passing)
        scored.add(parts)
        left_out += [
            {"degradation": name, "clip_id": clip.clip_id, "path": clip.path, "reason": reason}
            for clip, reason in reasons.items()
        ]
    if len(scored.tables) == 1:
        raise StageError(f"robustness: no clip can be used in any curve, as {left_out[0]['reason']}")
    scores = scored.with_probe(rows)
    result = robustness(scores, left_out, seed=params.seed)
    table = as_table(result)
    mark(workspace, index, "robustness", run.cache, *settings_of_networks(run), asdict(question))
    write_table(workspace.robustness / "scores.csv", scores)
    write_table(workspace.robustness / "robustness.csv", table)
    write_text(workspace.robustness / "robustness.svg", standalone(robustness_svg(table)))
    write_json(workspace.robustness / "robustness.json", result)
    return result


def _check_backbones(workspace: Workspace, cache: FeatureCache, run: RetrainRun) -> None:
    made, trained = (
        {name: bare_identity(of) for name, of in backbones.items()}
        for backbones in (cache.attributes["backbones"], run.backbones)
    )
    if made != trained:
        raise StageError(
            f"robustness: the networks in {workspace.retrain} were trained on the features of other backbones than "
            f"{workspace.features} holds: run `bmnas search` and `bmnas retrain` again"
        )


def _compute(wanted: Sequence[Wanted], params: Params) -> dict[tuple[str, str], str]:
    """{(degradation, clip_id): what was in the way, and may not be next time}; the rest is kept in its files."""
    pending = [each for each in wanted if Found.read(each.file) is None]
    passing: dict[tuple[str, str], str] = {}
    done = len(wanted) - len(pending)
    with (
        session(params.compute),
        progress_bar("robustness", total=len(wanted), unit="degraded clips", done=done) as advance,
    ):
        try:
            for task, reason in run_tasks(compute_one, pending, params.compute):
                if reason:
                    passing[task.degradation, task.clip.clip_id] = reason
                advance(1, f"{task.degradation} {DEGRADATIONS[task.degradation].setting_of(task.severity)}")
        except TasksLostError as error:
            passing |= {(task.degradation, task.clip.clip_id): _DEADLY for task in error.tasks}
    console.print(f"robustness: {len(wanted)} degraded clips: {done} already done, {len(pending)} computed")
    return passing


_Part = tuple[pd.DataFrame, _Layers]
"""(rows of scores.csv before there are scores, their features)"""


@dataclass
class _Rows:
    """What is to be scored: the cache's rows, and those of degraded clips."""

    index: pd.DataFrame
    """Of the whole cache, as `clip_index` gives it."""
    features: _Layers = field(repr=False)
    """Of every window of it."""
    clip_ids: Sequence[str]

    def __post_init__(self) -> None:
        self._chosen = np.flatnonzero(self.index["clip_id"].isin(self.clip_ids).to_numpy()).tolist()
        keys = self.index.iloc[self._chosen][["clip_id", "start_s"]].itertuples(index=False, name=None)
        self._row: dict[tuple[str, float], int] = dict(zip(keys, self._chosen, strict=True))

    def clean(self) -> _Part:
        """The clips as they are."""
        table, layers = self._cached(self._chosen)
        return _named(table, CLEAN, 0, "as it is"), layers

    def curve(
        self, name: str, conditions: Sequence[tuple[str, int]], wanted: Sequence[Wanted], passing: Mapping[Any, str]
    ) -> tuple[list[_Part], dict[Clip, str]]:
        """(the parts of one curve, {clip: why it is in none of its points})."""
        reasons: dict[Clip, str] = {}
        kept: dict[tuple[str, int], _Part] = {}
        for each in wanted:
            found = Found.read(each.file) or Found(reason=passing.get((name, each.clip.clip_id), "its result is lost"))
            part = None if found.reason else self._part(each, found)
            if part is None:
                setting = DEGRADATIONS[name].setting_of(each.severity)
                reasons.setdefault(each.clip, f"{setting}: {found.reason or 'no face in any of its windows'}")
            else:
                kept[each.clip.clip_id, each.severity] = part
        asked = {each.clip.clip_id for each in wanted}
        bad = {clip.clip_id for clip in reasons}
        parts = []
        for severity in [severity for of, severity in conditions if of == name]:
            for clip_id in self.clip_ids:
                if clip_id not in bad:
                    table, layers = kept[clip_id, severity] if clip_id in asked else self._as_it_is(clip_id)
                    parts.append((_named(table, name, severity, DEGRADATIONS[name].setting_of(severity)), layers))
        return parts, reasons

    def _cached(self, rows: list[int]) -> _Part:
        return self.index.iloc[rows][_COLUMNS], {name: x[rows] for name, x in self.features.items()}

    def _as_it_is(self, clip_id: str) -> _Part:
        """Of a clip without sound, whose sound cannot be degraded."""
        return self._cached([row for (other, _), row in self._row.items() if other == clip_id])

    def _part(self, wanted: Wanted, found: Found) -> _Part | None:
        """The clip's degraded windows; what was not degraded is the cache's. None where it has none in common."""
        clip = wanted.clip
        if DEGRADATIONS[wanted.degradation].modality == "both":
            return self._replanned(clip, found), dict(found.layers)
        places = [(i, self._row.get((clip.clip_id, start))) for i, start in enumerate(found.starts_s)]
        both = [(i, row) for i, row in places if row is not None]
        if not both:
            return None
        new, rows = (list(side) for side in zip(*both, strict=True))
        layers = {
            name: found.layers[name][new] if name in found.layers else x[rows] for name, x in self.features.items()
        }
        return self.index.iloc[rows][_COLUMNS], layers

    def _replanned(self, clip: Clip, found: Found) -> pd.DataFrame:
        """The rows of other windows than the cache has."""
        first = self.index[self.index["clip_id"] == clip.clip_id].iloc[[0] * len(found.starts_s)]
        labels = [clip.labels_between(start, start + found.available_s) for start in found.starts_s]
        table: pd.DataFrame = first[_COLUMNS].assign(
            window=np.arange(len(labels)), start_s=found.starts_s, label=[int(any(pair)) for pair in labels]
        )
        return table


def _named(table: pd.DataFrame, degradation: str, severity: int, setting: str) -> pd.DataFrame:
    place = pd.DataFrame({"degradation": degradation, "severity": severity, "setting": setting}, index=table.index)
    return pd.concat([place, table], axis=1)


@dataclass
class _Scored:
    """Scores, curve by curve: no more than one curve's features are held."""

    workspace: Workspace
    run: RetrainRun
    device: str
    tables: list[pd.DataFrame] = field(default_factory=list)
    """Of each call of `add`, without scores."""
    networks: list[pd.DataFrame] = field(default_factory=list)
    pooled: list[_Layers] = field(default_factory=list)
    """What the linear probe reads: the mean over L, (N, 1, C_in)."""

    def add(self, parts: Sequence[_Part]) -> None:
        """Scores the parts by the networks."""
        if not parts:
            return
        table = pd.concat([rows for rows, _ in parts], ignore_index=True)
        layers = {name: torch.cat([of[name] for _, of in parts]) for name in parts[0][1]}
        self.tables.append(table)
        self.pooled.append(_pooled(layers))
        for entry in self.run.entries:
            score = score_windows(self.workspace, entry, layers, self.device)
            self.networks.append(table.assign(system=entry.network, seed=entry.seed, score=score))

    def with_probe(self, rows: _Rows) -> pd.DataFrame:
        """The rows of scores.csv; the probe is fitted on the train windows as they are, its penalty chosen on val."""
        table = pd.concat(self.tables, ignore_index=True)
        learnt = np.flatnonzero(rows.index["split"] != "test")
        first = _pooled({name: x[learnt] for name, x in rows.features.items()})
        features = {name: torch.cat([x, *(of[name] for of in self.pooled)]) for name, x in first.items()}
        split = [*rows.index["split"].iloc[learnt], *["test"] * len(table)]
        labels = np.concatenate([rows.index["label"].iloc[learnt], table["label"]]).astype(np.int64)
        found = list(self.networks)
        try:
            scores = logistic_regression(features, labels, split).scores[len(learnt) :]
            found.append(table.assign(system=PROBE, seed=0, score=scores))
        except (UndefinedMetricError, ValueError) as error:
            console.print(f"robustness: there is no linear probe: {error}", style="yellow", markup=False)
        return pd.concat(found, ignore_index=True)


def _pooled(layers: _Layers) -> _Layers:
    return {name: x.float().mean(dim=-2, keepdim=True) for name, x in layers.items()}
