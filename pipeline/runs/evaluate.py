"""The evaluate stage: networks and controls on val and test, scored once, measured per window and per clip.

clips.csv, scores.csv        see cache_schemas.evaluation: all numbers come from these two alone
metrics.json                 see pipeline.statistics.measure; and its seed, which cache it is of, which one the networks
                             were trained on, the audit's findings, and how often the test split was looked at
summary.json                 the few numbers of it that `dvc metrics` shows
evidence.json                what `predict` needs to answer, and unlike.safetensors: see cache_schemas.evidence
roc.csv                      system, fpr, tpr: clip level, scores averaged over the seeds; det.csv: system, fpr, fnr
reliability.csv              predicted, observed, n: of the searched network; tippett.csv: clips, log10_lr, share
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cache_schemas.evaluation import CLIPS, SCORES
from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.files import write_json
from cache_schemas.manifest import read_manifest
from cache_schemas.run import RetrainRun, read_run
from cache_schemas.segments import segments_text
from cache_schemas.tables import write_table
from pipeline.compute.progress import console, progress_bar
from pipeline.controls.sound import other_sound
from pipeline.params import Params
from pipeline.runs.audit import audit
from pipeline.runs.cache import Source, cache_identity, clip_index, open_cache
from pipeline.runs.controls import control_scores
from pipeline.runs.evidence import clip_quantities, keep_evidence
from pipeline.runs.familiar import fit_familiar
from pipeline.runs.looks import looks_at, mark, often, settings_of_networks
from pipeline.runs.scoring import score_windows
from pipeline.runs.worth import warnings
from pipeline.statistics.added import SUMMARY
from pipeline.statistics.curves import calibration_curves, curves
from pipeline.statistics.measure import measure
from pipeline.statistics.shortcuts import SHORTCUTS
from pipeline.statistics.systems import FUSION, OTHER_SOUND
from pipeline.statistics.tables import clips as one_a_clip
from pipeline.statistics.values import in_figures, spans
from pipeline.workspace import Workspace


class EvaluateError(ValueError):
    """There is nothing to evaluate, or a network is broken; the message says which and what to do."""


def evaluate(workspace: Workspace, params: Params, *, device: str, shown: pd.DataFrame | None = None) -> dict[str, Any]:
    """The metrics of every retrained network and control on the test split, as written to work/evaluate.

    shown: by clip_id how much face and speech there is, as `pipeline.features.shown` says; None where nobody knows.
    """
    cache = open_cache(workspace, params)
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    index = clip_index(workspace, cache)
    if not (index["split"] == "test").any():
        raise EvaluateError(f"{workspace.features}: no window is in the test split: raise split.test in params.yaml")
    identity = cache_identity(cache)
    if run.cache != identity:
        _check_alike(workspace, run, cache)
    if run.cache not in ("", identity):
        console.print(
            "[yellow]evaluate: the networks were trained on other windows or splits of the same backbones: no clip of "
            "this test split may have been among them"
        )
    windows = with_ends(index, cache)
    with progress_bar("evaluate", total=5, unit="parts") as advance:
        advance(0, "networks")
        networks, swapped = _networks(workspace, run, cache, windows, device=device, seed=params.seed)
        advance(1, "controls")
        scores = pd.concat([*networks, *_controls(workspace, params, windows), *swapped], ignore_index=True)
        advance(1, "distances to the training clips")
        familiar = fit_familiar(cache)
        clips = clip_table(workspace, index).join(
            clip_quantities(cache, familiar, pd.DataFrame() if shown is None else shown), on="clip_id"
        )
        advance(1, "metrics")
        result = {"seed": params.seed, "cache": identity, "trained_on": run.cache}
        result = measure(clips, scores, seed=params.seed) | result
        advance(1, "audit")
        result["audit"] = audit(workspace, run, cache, clips, scores, seed=params.seed)
        mark(workspace, index, "evaluate", identity, *settings_of_networks(run))
        result["looks"] = looks_at(workspace, index)
        write_results(workspace.evaluate, clips, scores, result)
        keep_evidence(workspace, clips, scores, familiar)
        advance(1)
    return result


def _check_alike(workspace: Workspace, run: RetrainRun, cache: FeatureCache) -> None:
    """Raises EvaluateError when a cache of other clips holds other features than the networks were trained on."""
    other = "the features of other backbones" if run.backbones != cache.attributes["backbones"] else ""
    try:
        open_cache(workspace, Params.model_validate(run.params))
    except FeatureCacheError:
        other = other or "features of other parameters (windows, spectrograms, faces or features)"
    if other:
        raise EvaluateError(
            f"the networks in {workspace.retrain} were trained on {other} than {workspace.features} holds: run "
            "`bmnas search` and `bmnas retrain` again"
        )


def with_ends(index: pd.DataFrame, cache: FeatureCache) -> pd.DataFrame:
    """The index with a column more: `end_s` of each window, at the clip's end at the latest."""
    ends = index["start_s"] + float(cache.attributes["params"]["windows"]["window_s"])
    return index.assign(end_s=ends.clip(upper=index["duration_s"].fillna(np.inf)))


def _networks(
    workspace: Workspace, run: RetrainRun, cache: FeatureCache, windows: pd.DataFrame, *, device: str, seed: int
) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """(the networks' scores, those of the fusion networks of pictures with another clip's sound)."""
    networks: list[pd.DataFrame] = []
    swapped: list[pd.DataFrame] = []
    heard = bool(windows["has_audio"].any())
    if not heard:
        console.print(f"[yellow]evaluate: without {OTHER_SOUND}: no window has sound")
    for split in ("val", "test"):
        mine = windows[windows["split"] == split]
        if mine.empty:
            continue
        features = cache.load(split)
        for entry in run.entries:
            scores = score_windows(workspace, entry, features, device)
            networks.append(score_table(mine, entry.network, entry.seed, scores))
        if heard:
            features = other_sound(features, mine, seed)
            for entry in (entry for entry in run.entries if entry.network == FUSION):
                scores = score_windows(workspace, entry, features, device)
                swapped.append(score_table(mine, OTHER_SOUND, entry.seed, scores))
    return networks, swapped


def _controls(workspace: Workspace, params: Params, windows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    try:
        found = control_scores(Source.of(workspace, params))
    except FeatureCacheError as error:
        console.print(f"[yellow]evaluate: without controls: {escape(str(error))}")
        return
    scored = windows["split"].isin(["val", "test"]).to_numpy()
    for name, scores in found.items():
        yield score_table(windows[scored], name, 0, scores[scored])


def clip_table(workspace: Workspace, index: pd.DataFrame) -> pd.DataFrame:
    """The rows of clips.csv; index: every window, as `pipeline.runs.cache.clip_index` gives it."""
    known = {clip.clip_id: clip for clip in read_manifest(workspace.manifest)}
    table = one_a_clip(index)
    mine = [known[clip_id] for clip_id in table.index]
    table = table.assign(
        group=[clip.group for clip in mine],
        windows=index.groupby("clip_id").size().loc[table.index],
        video_segments=[segments_text(clip.video_segments) for clip in mine],
        audio_segments=[segments_text(clip.audio_segments) for clip in mine],
    )
    return table.reset_index()[[*CLIPS, *SHORTCUTS, "has_audio"]]


def score_table(windows: pd.DataFrame, system: str, seed: int, scores: NDArray[np.float64]) -> pd.DataFrame:
    """The rows of scores.csv for one system; scores: (N,) P(fake) in the order of `windows`."""
    if not np.isfinite(scores).all():
        raise EvaluateError(
            f"network {system}, seed {seed}: {int((~np.isfinite(scores)).sum())} of {len(scores)} scores "
            "are not finite: its training diverged; lower retrain.weight_lr and run `bmnas retrain` again"
        )
    return windows.assign(system=system, seed=seed, score=scores)[list(SCORES)]


def write_results(folder: Path, clips: pd.DataFrame, scores: pd.DataFrame, result: Mapping[str, Any]) -> None:
    """Replaces the files of work/evaluate."""
    roc, det = curves(clips, scores)
    reliability, tippett = calibration_curves(result["calibration"])
    tables = {"clips": clips, "scores": scores, "roc": roc, "det": det, "reliability": reliability, "tippett": tippett}
    for name, table in tables.items():
        write_table(folder / f"{name}.csv", table)
    write_json(folder / "summary.json", result["summary"])
    write_json(folder / "metrics.json", result)


_TITLES = {
    "auc": "AUC", "eer": "EER", "average_precision": "average precision", "balanced_accuracy": "balanced accuracy",
    "bpcer_at_apcer_5": "BPCER at APCER 5 %", "cllr": "Cllr",
}  # fmt: skip


def print_metrics(result: Mapping[str, Any], first: Iterable[str], console: Console) -> None:
    """Nothing; prints the clip-level metrics as a table, and under it the verdict and the warnings.

    first: what must be said before all others.
    """
    over = spans(next(iter(result["systems"].values()))["clip"]["auc"])
    table = Table(title=f"Test clips, the seeds' mean score, {over}; one network: mean ± std")
    table.add_column("system")
    for name in (*SUMMARY, "one network"):
        table.add_column(_TITLES.get(name, name), justify="right")
    for name, system in result["systems"].items():
        one = system["one_network"]["auc"]
        spread = "" if one["std"] is None else f"{one['mean']:.3f} ± {one['std']:.3f}"
        values = (in_figures(system["clip"][metric], ends=metric == "auc") for metric in SUMMARY)
        table.add_row(escape(name), *values, spread)
    console.print(table)
    if result["headline"]:
        console.print(result["headline"]["sentence"], style="bold", markup=False, highlight=False)
    for line in (*first, *warnings(result), *often(result.get("looks", {}))):
        console.print(f"Warning: {line}", style="yellow", markup=False)
