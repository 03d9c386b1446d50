"""Command `robustness`: the test clips, degraded, scored by the trained networks and by the linear probe.

scores.csv        one row per degradation, severity, window, system and seed; degradation "none": the clips as they are
robustness.csv    one row per degradation, severity and system: AUC with its interval
robustness.json   the same, with the clips that are in no point of a curve, and why
robustness.svg    the same, drawn
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
from pipeline.runs.evaluate import score_windows
from pipeline.shards.stage import StageError
from pipeline.statistics.metrics import UndefinedMetricError
from pipeline.workspace import Workspace

PROBE = "logistic regression, all layers"
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
    collected = _Collected(index, cache.load(), clip_ids)
    left_out = []
    for name in question.only:
        of_curve = [each for each in wanted if each.degradation == name]
        reasons = collected.add(name, conditions_of(question), of_curve, passing)
        left_out += [
            {"degradation": name, "clip_id": clip.clip_id, "path": clip.path, "reason": reason}
            for clip, reason in reasons.items()
        ]
    scores = _score(workspace, collected, run, device=device_of(params.compute))
    result = robustness(scores, left_out, seed=params.seed)
    table = as_table(result)
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


@dataclass
class _Collected:
    """Rows to be scored: those of the cache first, then curve by curve."""

    index: pd.DataFrame
    """Of the whole cache, as `clip_index` gives it."""
    features: _Layers = field(repr=False)
    """Of every window of it."""
    clip_ids: Sequence[str]
    parts: list[tuple[pd.DataFrame, _Layers]] = field(default_factory=list, repr=False)
    """(rows of scores.csv before there are scores, their features)"""

    def __post_init__(self) -> None:
        rows = np.flatnonzero(self.index["clip_id"].isin(self.clip_ids).to_numpy())
        table = self.index.iloc[rows][_COLUMNS]
        self.parts.append((_named(table, CLEAN, 0, "as it is"), {name: x[rows] for name, x in self.features.items()}))
        self._row = {
            (str(clip_id), float(start)): row
            for row, clip_id, start in zip(rows.tolist(), table["clip_id"], table["start_s"], strict=True)
        }

    def add(
        self, name: str, conditions: Sequence[tuple[str, int]], wanted: Sequence[Wanted], passing: Mapping[Any, str]
    ) -> dict[Clip, str]:
        """Takes in one curve; {clip: why it is in none of its points}."""
        reasons: dict[Clip, str] = {}
        kept: dict[str, dict[int, tuple[pd.DataFrame, _Layers]]] = {}
        for each in wanted:
            found = Found.read(each.file) or Found(reason=passing.get((name, each.clip.clip_id), "its result is lost"))
            part = None if found.reason else self._part(each, found)
            if part is None:
                setting = DEGRADATIONS[name].setting_of(each.severity)
                reasons.setdefault(each.clip, f"{setting}: {found.reason or 'no face in any of its windows'}")
            else:
                kept.setdefault(each.clip.clip_id, {})[each.severity] = part
        bad = {clip.clip_id for clip in reasons}
        mute = {clip_id: self._as_it_is(clip_id) for clip_id in self.clip_ids if clip_id not in kept.keys() | bad}
        for severity in [severity for of, severity in conditions if of == name]:
            for clip_id in self.clip_ids:
                if clip_id not in bad:
                    table, layers = kept[clip_id][severity] if clip_id in kept else mute[clip_id]
                    setting = DEGRADATIONS[name].setting_of(severity)
                    self.parts.append((_named(table, name, severity, setting), layers))
        return reasons

    def _as_it_is(self, clip_id: str) -> tuple[pd.DataFrame, _Layers]:
        rows = [row for (other, _), row in self._row.items() if other == clip_id]
        return self.index.iloc[rows][_COLUMNS], {name: x[rows] for name, x in self.features.items()}

    def _part(self, wanted: Wanted, found: Found) -> tuple[pd.DataFrame, _Layers] | None:
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


def _score(workspace: Workspace, collected: _Collected, run: RetrainRun, *, device: str) -> pd.DataFrame:
    """The rows of scores.csv."""
    table = pd.concat([rows for rows, _ in collected.parts], ignore_index=True)
    layers = {name: torch.cat([of[name] for _, of in collected.parts]) for name in collected.features}
    found = [
        table.assign(system=entry.network, seed=entry.seed, score=score_windows(workspace, entry, layers, device))
        for entry in run.entries
    ]
    try:
        found.append(table.assign(system=PROBE, seed=0, score=_probe(collected, layers, table)))
    except (UndefinedMetricError, ValueError) as error:
        console.print(f"[yellow]robustness: no linear probe: {error}", markup=True)
    return pd.concat(found, ignore_index=True)


def _probe(collected: _Collected, layers: _Layers, table: pd.DataFrame) -> Any:
    """P(fake) (rows,) of the linear probe, fitted on the train windows as they are, its penalty chosen on val."""
    learnt = np.flatnonzero(collected.index["split"] != "test")
    # The mean over L is all that the probe reads: taken at once, it needs an eighth of the memory or less.
    pooled = {
        name: torch.cat([x[learnt].float().mean(-2), layers[name].float().mean(-2)])[:, None]
        for name, x in collected.features.items()
    }
    split = [*collected.index["split"].iloc[learnt], *["test"] * len(table)]
    labels = np.concatenate([collected.index["label"].iloc[learnt], table["label"]]).astype(np.int64)
    return logistic_regression(pooled, labels, split).scores[len(learnt) :]
