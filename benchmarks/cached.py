"""`make bench-cached`: what the feature cache saves. A training step on cached features against the same step with
the frozen backbones run for its minibatch, side by side, on the windows of a finished `work/` (make demo).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

import nas
from benchmarks.side_by_side import compare, print_figures
from cache_schemas.features import FeatureCache
from pipeline.features.compute import window_features
from pipeline.features.windows import window_sources
from pipeline.params import load_params
from pipeline.workspace import Workspace

BATCH = 16


def main() -> None:
    """Measures both in turn."""
    workspace, params = Workspace(Path("work")), load_params(Path("params.yaml"))
    features = {name: x.float() for name, x in FeatureCache.open(workspace.features).load().items()}
    entry = json.loads((workspace.retrain / "retrain.json").read_text())["entries"][0]
    network = nas.CompactNetwork.from_spec(entry["spec"])
    sources = window_sources(workspace, params)[:BATCH]

    def step(batch: dict[str, torch.Tensor]) -> None:
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(batch), torch.zeros(BATCH, dtype=torch.long)).backward()

    def cached() -> None:
        step({name: x[:BATCH] for name, x in features.items()})

    def uncached() -> None:
        rows = [window_features(source, params, "cpu") for source in sources]
        step({name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]})

    title = f"a training step at batch {BATCH}: cached features against backbones in the loop"
    print_figures([compare(title, cached, uncached, goal=50)])


if __name__ == "__main__":
    main()
