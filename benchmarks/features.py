"""`make bench-features`: the features stage against its backbones' bare forward pass, in turn, medians of 5.

The stage is the real one, in one process: it reads face crops and spectrograms from their shards, makes views, computes
and writes the cache, from nothing each time. The bare pass has the same windows and views ready in memory. Both give
every window a pass of its own and use all cores. Needs no files: it draws 24 clips first (a minute or so).

Prints a table and writes benchmarks/results/features.json.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.side_by_side import Figure, compare, publish
from cache_schemas.manifest import read_manifest, write_manifest
from pipeline.backbones import Backbone, load_backbone
from pipeline.faces import build_faces
from pipeline.features import MODALITIES, WindowSource, build_features, window_inputs, window_sources
from pipeline.manifest import build_manifest
from pipeline.params import Params, parse_params
from pipeline.spectrograms import build_spectrograms
from pipeline.synth import generate
from pipeline.workspace import Workspace

CLIPS = 24
CLIPS_WITH_VIEWS = 8
VIEWS = 4


def main() -> None:
    """Draws the clips, then measures one view and four."""
    with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
        root, workspace = Path(folder) / "clips", Workspace(Path(folder) / "work")
        generate(root, identities=CLIPS // 4, clips_per_identity=4, seed=0)
        build_manifest(workspace, parameters(root, views=1))
        build_spectrograms(workspace, parameters(root, views=1))
        build_faces(workspace, parameters(root, views=1))
        publish("features", measure(workspace, root))


def parameters(root: Path, *, views: int) -> Params:
    """The defaults, in this process."""
    content = {"data": {"root": str(root)}, "features": {"views": views}, "compute": {"workers": 1, "device": "cpu"}}
    return parse_params(content, source="benchmark")


def measure(workspace: Workspace, root: Path) -> list[Figure]:
    """The stage over the workspace's clips, and over some of them with views."""
    figures = []
    for views, clips, goal in ((1, CLIPS, 0.92), (VIEWS, CLIPS_WITH_VIEWS, 0.80)):
        params = parameters(root, views=views)
        write_manifest(workspace.manifest, read_manifest(workspace.manifest)[:clips])
        sources = window_sources(workspace, params)
        passes = inputs(sources, params)

        def stage(params: Params = params) -> None:
            shutil.rmtree(workspace.features, ignore_errors=True)
            build_features(workspace, params)

        def bare(passes: list[tuple[Backbone, list[torch.Tensor]]] = passes) -> None:
            for backbone, windows in passes:
                for window in windows:
                    backbone(window, length=8)

        name = f"features stage / bare forward pass, {len(sources)} windows, {views} view{'s' if views > 1 else ''}"
        figures.append(compare(name, stage, bare, goal=goal))
    return figures


def inputs(sources: Sequence[WindowSource], params: Params) -> list[tuple[Backbone, list[torch.Tensor]]]:
    """Every backbone with all windows and views that it takes, batches of one, in memory."""
    found = []
    for modality in MODALITIES:
        for chosen in getattr(params.features, modality):
            backbone = load_backbone(modality, chosen, "cpu")
            views = range(params.features.views)
            windows = [
                window[None]
                for source in sources
                for window in window_inputs(source, backbone.input, views, params.spectrograms)
            ]
            found.append((backbone, windows))
    return found


if __name__ == "__main__":
    main()
