"""`make bench-features`: the features stage against its backbones' bare forward pass, in turn, medians of 5.

The stage is the real one, in one process: it reads face crops and spectrograms from their shards, makes views, computes
and writes the cache, from nothing each time. The bare pass has the same windows and views ready in memory. Both give
every window a pass of its own and use all cores. Needs no files: it draws 24 clips first, and repeats their windows so
that what a run costs once (listing clips, beginning a cache, its index) weighs no more than in real runs.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from benchmarks.side_by_side import Figure, compare, print_figures
from cache_schemas.manifest import read_manifest, write_manifest
from cache_schemas.media import FACES, SPECTROGRAMS, read_windows, write_windows
from cache_schemas.shards import ClipEntry, ClipResult, ShardSchema, read_rows, scan_shards, write_shard
from pipeline.backbones import Backbone, load_backbone
from pipeline.faces.stage import build_faces, face_key
from pipeline.features.forward import MODALITIES
from pipeline.features.stage import build_features
from pipeline.features.windows import WindowSource, window_inputs, window_sources
from pipeline.manifest.build import build_manifest
from pipeline.params import Params, parse_params
from pipeline.shards.stage import CLIPS_PER_SHARD
from pipeline.sound.stage import build_spectrograms, spectrogram_key
from pipeline.synth import generate
from pipeline.workspace import Workspace

CLIPS = 24
ROWS = 96
"""Windows times views that a turn computes."""
VIEWS = 4


def main() -> None:
    """Draws the clips, then measures one view and four."""
    with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
        root, workspace = Path(folder) / "clips", Workspace(Path(folder) / "work")
        generate(root, identities=CLIPS // 4, clips_per_identity=4, seed=0)
        build_manifest(workspace, parameters(root, views=1))
        build_spectrograms(workspace, parameters(root, views=1))
        build_faces(workspace, parameters(root, views=1))
        print_figures([measure(workspace, root, views=1, goal=0.92), measure(workspace, root, views=VIEWS, goal=0.80)])


def parameters(root: Path, *, views: int) -> Params:
    """The defaults in this process, but nothing beside the windows: more of them would need passes of their own."""
    features = {"views": views, "random_control": False, "pseudo": 0}
    content = {"data": {"root": str(root)}, "features": features, "compute": {"workers": 1, "device": "cpu"}}
    return parse_params(content, source="benchmark")


def measure(workspace: Workspace, root: Path, *, views: int, goal: float) -> Figure:
    """The stage over ROWS windows and views."""
    params = parameters(root, views=views)
    with tempfile.TemporaryDirectory(prefix="bmnas-bench-") as folder:
        repeated = Workspace(Path(folder))
        repeat_clips(workspace, repeated, params, ROWS // views)
        sources = window_sources(repeated, params)
        passes = inputs(sources, params)

        def stage() -> None:
            shutil.rmtree(repeated.features, ignore_errors=True)
            build_features(repeated, params)

        def bare() -> None:
            for backbone, windows in passes:
                for window in windows:
                    backbone(window, length=params.features.length)

        name = f"features stage / bare forward pass, {len(sources)} windows, {views} view{'s' if views > 1 else ''}"
        return compare(name, stage, bare, goal=goal)


def repeat_clips(drawn: Workspace, repeated: Workspace, params: Params, count: int) -> None:
    """Writes what the stages before `features` would have left of `count` clips: the drawn ones over and over."""
    clips = read_manifest(drawn.manifest)
    copies = [(clips[i % len(clips)], f"{clips[i % len(clips)].clip_id}{i}") for i in range(count)]
    write_manifest(repeated.manifest, [replace(clip, clip_id=name) for clip, name in copies])
    windows = read_windows(drawn.windows)
    write_windows(repeated.windows, [replace(windows[clip.clip_id], clip_id=name) for clip, name in copies])
    for schema, key, source, target in (
        (SPECTROGRAMS, spectrogram_key(params), drawn.spectrograms, repeated.spectrograms),
        (FACES, face_key(params), drawn.faces, repeated.faces),
    ):
        entries = {entry.clip_id: entry for entry in scan_shards(source, schema, key).values()}
        results = [_result(entries[clip.clip_id], schema, name) for clip, name in copies]
        for i in range(0, len(results), CLIPS_PER_SHARD):
            write_shard(target, schema, key, results[i : i + CLIPS_PER_SHARD])


def _result(entry: ClipEntry, schema: ShardSchema, name: str) -> ClipResult:
    arrays = read_rows(entry.path, schema, range(entry.first_row, entry.first_row + len(entry.starts_s)))
    return ClipResult(name, entry.plan, entry.starts_s, arrays, entry.info)


def inputs(sources: Sequence[WindowSource], params: Params) -> list[tuple[Backbone, list[torch.Tensor]]]:
    """Every backbone with all windows and views that it takes, batches of one, in memory."""
    found = []
    for modality in MODALITIES:
        for chosen in getattr(params.features, modality):
            backbone = load_backbone(modality, chosen, "cpu")
            views = range(params.features.views)
            windows = [
                torch.from_numpy(window)[None]
                for source in sources
                for window in window_inputs(source, backbone.input, views, params.spectrograms)
            ]
            found.append((backbone, windows))
    return found


if __name__ == "__main__":
    main()
