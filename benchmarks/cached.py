"""`make bench-cached`: what the feature cache saves. A training step on cached features against the same step with
the frozen backbones run for its minibatch, side by side, on the windows of a finished `work/` (make demo).

Prints a table and writes benchmarks/results/cached.json.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import nas
from benchmarks.side_by_side import taken_s
from cache_schemas.features import FeatureCache
from pipeline.features.compute import window_features
from pipeline.features.windows import window_sources
from pipeline.params import load_params
from pipeline.workspace import Workspace

RUNS = 5
BATCH = 16


def main() -> None:
    """Measures both in turn, RUNS times."""
    workspace, params = Workspace(Path("work")), load_params(Path("params.yaml"))
    cache = FeatureCache.open(workspace.features)
    features = {name: x.float() for name, x in cache.load().items()}
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

    cached(), uncached()
    pairs = [(taken_s(cached), taken_s(uncached)) for _ in range(RUNS)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    result = {
        "figure": f"a training step at batch {BATCH}: cached features against backbones in the loop",
        "ratio": theirs / ours,
        "goal": 50.0,
        "ours_seconds": ours,
        "theirs_seconds": theirs,
        "runs": RUNS,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
    }
    path = Path(__file__).parent / "results" / "cached.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([result], indent=2) + "\n")
    table = Table("figure", "cached", "uncached", "ratio", "goal")
    table.add_row(str(result["figure"]), f"{ours:.4f} s", f"{theirs:.3f} s", f"{theirs / ours:.0f} x", "50 x")
    Console().print(table)


if __name__ == "__main__":
    main()
