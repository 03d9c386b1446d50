"""Controls: what is scored beside the networks on the same windows, so that a result has something to beat."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rich.markup import escape

from cache_schemas.features import FeatureCache
from pipeline.compute.progress import console
from pipeline.controls.probes import Probe, logistic_regression, probes
from pipeline.controls.properties import property_scores
from pipeline.runs.cache import Source, Windows, clip_index
from pipeline.statistics.systems import RANDOM_WEIGHTS
from pipeline.statistics.tables import clips
from pipeline.workspace import Workspace

Scores = dict[str, NDArray[np.float64]]


def control_scores(source: Source) -> Scores:
    """{system: P(fake) of every window of the cache (N,), in the cache's order}.

    They learn from train and are chosen on val. A control that cannot be is left out, and it is said why.
    """
    windows = source.windows()
    for split in ("train", "val"):
        if len(set(windows.labels[np.array(windows.split) == split])) < 2:
            console.print(f"[yellow]evaluate: without controls: {split} holds one class only")
            return {}
    return _random_weights(source) | _properties(source) | _probes(source)


def _random_weights(source: Source) -> Scores:
    control = source.control()
    if control is None:
        console.print(f"[yellow]evaluate: without random weights: {escape(source.no_control())}", soft_wrap=True)
        return {}
    return {RANDOM_WEIGHTS: _probe(control.windows(), logistic_regression)}


def _probes(source: Source) -> Scores:
    windows = source.windows()
    return {f"{kind}, all layers": _probe(windows, probe) for kind, probe in probes.items()}


def _probe(windows: Windows, probe: Callable[..., Probe]) -> NDArray[np.float64]:
    trained = windows.to_train_on(windows.features)
    plain = {name: x if x.ndim == 3 else x[0] for name, x in trained.features.items()}  # without their views
    return probe(plain, trained.labels, trained.split).scores[: len(windows.labels)]


def _properties(source: Source) -> Scores:
    """Scores of clips, at each of their windows."""
    workspace = Workspace(source.work)
    index = clip_index(workspace, FeatureCache.open(workspace.features))
    table = clips(index)
    found = property_scores(table, table["split"].tolist())
    return {
        str(name): index["clip_id"].map(of.set_index("clip_id")["score"]).to_numpy(float)
        for name, of in found.groupby("method", sort=False)
    }
