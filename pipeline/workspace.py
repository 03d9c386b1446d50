"""Where each stage writes. One place, so that dvc.yaml, the stages and the report agree."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """The folder of one pipeline's results (`work/` unless told otherwise)."""

    root: Path = Path("work")

    @property
    def manifest(self) -> Path:
        """clip_id, path, labels, split: one row a clip."""
        return self.root / "manifest" / "manifest.csv"

    @property
    def check(self) -> Path:
        """manifest.json, what `bmnas manifest --check` found, and facts.jsonl, what it measured of every clip."""
        return self.root / "check"

    @property
    def windows(self) -> Path:
        """The windows of every usable clip, for picture and sound alike."""
        return self.root / "windows" / "windows.csv"

    @property
    def spectrograms(self) -> Path:
        """HDF5 shards."""
        return self.root / "spectrograms"

    @property
    def faces(self) -> Path:
        """HDF5 shards."""
        return self.root / "faces"

    @property
    def pretrain(self) -> Path:
        """pretrain.json and the weights of trained backbones."""
        return self.root / "pretrain"

    @property
    def features(self) -> Path:
        """The feature cache, one Zarr v3 hierarchy."""
        return self.root / "features.zarr"

    @property
    def content(self) -> Path:
        """What the feature cache holds, named by content: what DVC compares."""
        return self.root / "features.json"

    @property
    def search(self) -> Path:
        """search.json and curves.csv."""
        return self.root / "search"

    @property
    def retrain(self) -> Path:
        """retrain.json, curves.csv and the weights."""
        return self.root / "retrain"

    @property
    def evaluate(self) -> Path:
        """metrics.json, scores.csv and the plots' tables."""
        return self.root / "evaluate"

    @property
    def report(self) -> Path:
        """report.html and quarantine.csv."""
        return self.root / "report"

    @property
    def runs(self) -> Path:
        """Finished searches, trainings and baselines, of all commands. No stage's output: DVC removes those first."""
        return self.root / "runs"

    @property
    def oracle(self) -> Path:
        """oracle.json, its tables and figure."""
        return self.root / "oracle"

    @property
    def sweep(self) -> Path:
        """sweep.csv, its summary and figure."""
        return self.root / "sweep"

    @property
    def baselines(self) -> Path:
        """baselines.csv, baselines.json and its figure."""
        return self.root / "baselines"

    def quarantine(self, stage: str) -> Path:
        """The clips that `stage` could not use, and why (clip_id, path, stage, reason)."""
        return self.root / "quarantine" / f"{stage}.csv"
