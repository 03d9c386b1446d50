"""The evaluate stage: the retrained networks on the test split, scored once, measured per window and per clip.

scores.csv    one row per window, network and seed; score = P(fake); label and category: the window's own
metrics.json  see pipeline.statistics.measure, and which cache it is of, and which one the networks were trained on
summary.json  the few numbers of it that `dvc metrics` shows
roc.csv       network, fpr, tpr: clip level, scores averaged over the seeds; det.csv: network, fpr, fnr
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

import nas
from cache_schemas.features import FeatureCache, FeatureCacheError
from cache_schemas.files import write_json
from cache_schemas.run import RetrainEntry, RetrainRun, RunFileError, read_run
from cache_schemas.tables import write_table
from pipeline.compute.progress import console
from pipeline.params import Params
from pipeline.runs.cache import cache_identity, clip_index, open_cache
from pipeline.statistics.measure import curves, measure
from pipeline.workspace import Workspace

_WINDOW_COLUMNS = ["clip_id", "window", "start_s", "subject_id", "category", "method", "label", "clip_category"]
_BATCH_WINDOWS = 512


class EvaluateError(ValueError):
    """There is nothing to evaluate, or a network is broken; the message says which and what to do."""


def evaluate(workspace: Workspace, params: Params, *, device: str) -> dict[str, Any]:
    """The metrics of every retrained network on the test split, as written to work/evaluate."""
    cache = open_cache(workspace, params)
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    index = clip_index(workspace, cache)
    test = index[index["split"] == "test"]
    if test.empty:
        raise EvaluateError(f"{workspace.features}: no window is in the test split: raise split.test in params.yaml")
    identity = cache_identity(cache)
    if run.cache != identity:
        _check_alike(workspace, run, cache)
    if run.cache not in ("", identity):
        console.print(
            "[yellow]evaluate: the networks were trained on other windows or splits of the same backbones: no clip of "
            "this test split may have been among them"
        )
    features = cache.load("test")
    scores = pd.concat(
        [
            score_table(test, entry.network, entry.seed, score_windows(workspace, entry, features, device))
            for entry in run.entries
        ],
        ignore_index=True,
    )
    result = measure(index, scores, seed=params.seed) | {"cache": identity, "trained_on": run.cache}
    write_results(workspace.evaluate, scores, result)
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


def score_windows(
    workspace: Workspace, entry: RetrainEntry, features: Mapping[str, torch.Tensor], device: str
) -> NDArray[np.float64]:
    """P(fake) of every window, (N,), in the order of `features`."""
    network = nas.CompactNetwork.from_spec(entry.spec)
    network.load_state_dict(load_file(workspace.retrain / entry.weights))
    network.to(device).eval()
    wanted = {name: features[name] for name in nas.Genotype.model_validate(entry.genotype).layers()}
    windows = len(next(iter(wanted.values())))
    parts = []
    for start in range(0, windows, _BATCH_WINDOWS):
        batch = {name: values[start : start + _BATCH_WINDOWS].to(device) for name, values in wanted.items()}
        parts.append(network.predict(batch).double().cpu().numpy())
    return np.concatenate(parts)


def score_table(test: pd.DataFrame, network: str, seed: int, scores: NDArray[np.float64]) -> pd.DataFrame:
    """The rows of scores.csv for one network; scores: (N,) P(fake) in the order of `test`."""
    if not np.isfinite(scores).all():
        raise EvaluateError(
            f"network {network}, seed {seed}: {int((~np.isfinite(scores)).sum())} of {len(scores)} scores "
            "are not finite: its training diverged; lower retrain.weight_lr and run `bmnas retrain` again"
        )
    table: pd.DataFrame = test[_WINDOW_COLUMNS].assign(network=network, seed=seed, score=scores)
    return table


def write_results(folder: Path, scores: pd.DataFrame, result: Mapping[str, Any]) -> None:
    """Replaces the files of work/evaluate."""
    roc, det = curves(scores)
    write_table(folder / "scores.csv", scores)
    write_table(folder / "roc.csv", roc)
    write_table(folder / "det.csv", det)
    write_json(folder / "summary.json", result["summary"])
    write_json(folder / "metrics.json", result)


def read_metrics(workspace: Workspace) -> dict[str, Any]:
    """What `evaluate` wrote; raises RunFileError when it did not run."""
    path = workspace.evaluate / "metrics.json"
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunFileError(f"{path} does not exist: run `bmnas evaluate` first") from None
    return content


def print_metrics(result: Mapping[str, Any], console: Console) -> None:
    """Nothing; prints the clip-level metrics as a table, and the warnings under it."""
    table = Table(title="Test split, clip level: mean over the seeds, ± their standard deviation")
    table.add_column("network")
    for name in ("AUC", "95 % interval", "EER", "average precision", "balanced accuracy"):
        table.add_column(name, justify="right")
    for name, network in result["networks"].items():
        clip, interval = network["clip"], network["clip"]["auc_interval"]
        span = "undefined" if interval["low"] is None else f"{interval['low']:.3f} to {interval['high']:.3f}"
        eer, precision, accuracy = (_text(clip[key]) for key in ("eer", "average_precision", "balanced_accuracy"))
        table.add_row(name, _text(clip["auc"]), span, eer, precision, accuracy)
    console.print(table)
    counts = result["counts"]
    console.print(f"{counts['clips']} clips ({counts['fake_clips']} fake), {counts['subjects']} subjects")
    for warning in (result["small_set_reason"], result["shortcuts"]["warning"]):
        if warning:
            console.print(f"Warning: {warning}", style="yellow", markup=False)


def _text(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return "undefined"
    return f"{value['mean']:.3f}" + ("" if value["std"] is None else f" ± {value['std']:.3f}")
