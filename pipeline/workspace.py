"""Where each stage writes. One place, so that dvc.yaml, the stages and the report agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


class _Place:
    """A place below a workspace's root."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, workspace: Workspace, _owner: type) -> Path:
        return workspace.root.joinpath(*self._parts)


@dataclass(frozen=True)
class Workspace:
    """The folder of one pipeline's results (`work/` unless told otherwise)."""

    root: Path = Path("work")

    manifest = _Place("manifest", "manifest.csv")
    """clip_id, path, labels, split: one row a clip."""
    unused = _Place("manifest", "unused.csv")
    """The same of the clips that `split.kind: people` leaves out, and why. No stage computes them."""
    hashes = _Place("hashes.txt")
    """What `bmnas manifest` knows of files' content. No stage's output: DVC removes those first."""
    check = _Place("check")
    """manifest.json, what `bmnas manifest --check` found, and facts.jsonl, what it measured of every clip."""
    windows = _Place("windows", "windows.csv")
    """The windows of every usable clip, for picture and sound alike."""
    spectrograms = _Place("spectrograms")
    """HDF5 shards."""
    faces = _Place("faces")
    """HDF5 shards."""
    pretrain = _Place("pretrain")
    """pretrain.json and the weights of trained backbones."""
    features = _Place("features.zarr")
    """The feature cache, one Zarr v3 hierarchy."""
    content = _Place("features.json")
    """What the feature cache holds, named by content: what DVC compares."""
    control = _Place("control.json")
    """The same of its control, the features of random weights."""
    search = _Place("search")
    """search.json and curves.csv."""
    graphs = _Place("onnx")
    """Of a bundle that needs no torch: all that it computes."""
    retrain = _Place("retrain")
    """retrain.json, curves.csv and the weights."""
    evaluate = _Place("evaluate")
    """metrics.json, scores.csv and the plots' tables."""
    report = _Place("report")
    """report.html and quarantine.csv."""
    runs = _Place("runs")
    """Finished searches, trainings and baselines, of all commands. No stage's output: DVC removes those first."""
    looks = _Place("looks.jsonl")
    """Every look at a test split, a line each. No stage's output: DVC removes those first."""
    oracle = _Place("oracle")
    """oracle.json, its tables and figure."""
    sweep = _Place("sweep")
    """sweep.csv, its summary and figure."""
    baselines = _Place("baselines")
    """baselines.csv, baselines.json and its figure."""
    protocols = _Place("protocols")
    """A folder a protocol: its table, scores, people and figure."""
    robustness = _Place("robustness")
    """robustness.json, its tables and figure."""

    def quarantine(self, stage: str) -> Path:
        """The clips that `stage` could not use, and why (clip_id, path, stage, reason)."""
        return self.root / "quarantine" / f"{stage}.csv"
