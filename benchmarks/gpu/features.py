"""The features stage against its backbones' bare forward passes, and against bare reading of the shards, in turn.

Crops and spectrograms are made up: neither media nor weights are needed. The stage is the real one, in one process,
from nothing each time. Besides, how much of the stage the device is at work, and the face detector against one core.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from numpy.typing import NDArray
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.measuring import Bench
from cache_schemas.manifest import read_manifest
from pipeline.backbones import Backbone, load_backbone
from pipeline.faces.mtcnn import Mtcnn
from pipeline.faces.networks import torch_networks
from pipeline.features.forward import MODALITIES, PASS_WINDOWS
from pipeline.features.stage import build_features
from pipeline.features.windows import stored_inputs, stored_windows, window_sources
from pipeline.params import Params
from pipeline.workspace import Workspace
from tests.pipeline.made_up_media import clip_contents, made_up_params, run_before_features, write_clips
from tests.pipeline.moving_face import noisy, scene, with_face

CLIPS, ROUNDS = 640, 3
PICTURES = 64
"""That faces are looked for in, of 288 x 360 px."""
AT_WORK = {"cuda": ("kernel", "gpu_memcpy", "gpu_memset"), "cpu": ("cpu_op",)}
"""What torch's profiler calls that with which the device is busy."""
NETWORKS = {"cuda": "resnet50", "cpu": "test_resnet"}


def main() -> None:
    """Makes the windows, then measures the three in turn."""
    bench = Bench.of_arguments(__doc__)
    count = bench.count(CLIPS, 8)
    faces(bench)
    with tempfile.TemporaryDirectory(prefix="bmnas-gpu-") as folder:
        root, workspace = Path(folder) / "clips", Workspace(Path(folder) / "work")
        params = parameters(root, bench.device)
        write_clips(root, clip_contents([f"clip{i}" for i in range(count)]))
        run_before_features(workspace, params)
        assert len(read_manifest(workspace.manifest)) == count
        measure(bench, workspace, params, count)


def parameters(root: Path, device: str) -> Params:
    """A ResNet-50 on 8 frames of 224 px, and one on spectrograms; in small on the CPU."""
    small = device == "cpu"
    chosen = [{"name": NETWORKS[device], "weights": "seed:0"}]
    return made_up_params(
        root,
        faces={"frames": 2 if small else 8, "size_px": 32 if small else 224},
        features={"visual": chosen, "audio": chosen, "length": 4, "random_control": False},
        compute={"workers": 1, "device": device},
    )


def measure(bench: Bench, workspace: Workspace, params: Params, count: int) -> None:
    """Windows a second of each, and what the stage takes beside the slower of the other two."""
    passes = [
        (backbone, list(batches(workspace, params, backbone)))
        for modality in MODALITIES
        for chosen in getattr(params.features, modality)
        for backbone in [load_backbone(modality, chosen, bench.device)]
    ]

    def stage() -> None:
        shutil.rmtree(workspace.features, ignore_errors=True)
        build_features(workspace, params)

    def bare() -> None:
        for backbone, found in passes:
            for batch in found:
                backbone.rows(batch, length=params.features.length)

    def reading() -> None:
        for backbone, _ in passes:
            for _ in batches(workspace, params, backbone):
                pass

    taken = bench.in_turn({"stage": stage, "bare": bare, "reading": reading}, bench.count(ROUNDS))
    bench.add(f"features stage, {count} windows of {params.faces.frames} frames", count / taken["stage"], "windows/s")
    bench.add("bare backbone passes of windows in memory", count / taken["bare"], "windows/s")
    bench.add("bare reading of the shards", count / taken["reading"], "windows/s")
    slower = max(taken["bare"], taken["reading"])
    bench.add("the stage's time beside the slower of the two", taken["stage"] / slower, "times", "at most 1.3")
    busy, span = at_work(bench, stage)
    # Without what a run costs once: listing, the index, and the last shard of the cache.
    bench.add("the same from its first pass to its last", span / slower, "times", "at most 1.3")
    bench.add("device at work meanwhile", 100 * busy / span, "%", "at least 80")


def at_work(bench: Bench, action: Callable[[], object]) -> tuple[float, float]:
    """(seconds in which the device did something, seconds from the first thing that it did to the last)."""
    activity = ProfilerActivity.CPU if bench.device == "cpu" else ProfilerActivity.CUDA
    with tempfile.TemporaryDirectory(prefix="bmnas-gpu-") as folder:
        trace = Path(folder) / "trace.json"
        with profile(activities=[activity]) as profiled:
            bench.seconds(action)
        profiled.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    done = [event for event in events if event.get("cat") in AT_WORK[bench.device]]
    spans = sorted((event["ts"], event["ts"] + event["dur"]) for event in done)
    busy, end = 0.0, spans[0][0]
    for start, stop in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return busy / 1e6, (end - spans[0][0]) / 1e6


def faces(bench: Bench) -> None:
    """Pictures a second that one process searches with its networks on the device, and one core by itself."""
    count = bench.count(PICTURES, 2)
    pictures = noisy(np.stack([with_face(scene(90), 40.0 + i % 32, 10.0) for i in range(count)]))
    there, core = (Mtcnn(40.0, torch_networks(where)) for where in (bench.device, "cpu"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    taken = bench.in_turn(
        {"there": lambda: there.detect(pictures), "core": lambda: core.detect(pictures)}, bench.count(ROUNDS)
    )
    torch.set_num_threads(threads)
    bench.add("faces: pictures searched by one process, its networks on the device", count / taken["there"], "1/s")
    bench.add(
        "the same beside one core of the CPU",
        taken["core"] / taken["there"],
        "times",
        "at least 5, all processes together",
    )


def batches(workspace: Workspace, params: Params, backbone: Backbone) -> Iterator[NDArray[Any]]:
    """The windows as the backbone takes them, read from the shards, so many as the stage has in one pass."""
    windows = stored_windows(window_sources(workspace, params), backbone.modality)
    size = PASS_WINDOWS[backbone.on]
    for first in range(0, len(windows), size):
        part = windows[first : first + size]
        rows = [(window, 0) for window in part]
        yield np.stack(list(stored_inputs(rows, backbone.input, params.spectrograms)))


if __name__ == "__main__":
    main()
