"""What it takes to get the same figures again: versions, digests, commands, and whether all is of one cache."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from cache_schemas.files import file_sha256
from cache_schemas.run import RetrainRun, read_json
from pipeline.workspace import Workspace

PACKAGES = ("bmnas", "torch", "torchvision", "timm", "facenet-pytorch", "numpy", "pandas", "scikit-learn", "zarr")
_STAGES = ("manifest", "spectrograms", "faces", "features", "search", "retrain", "evaluate")


def versions() -> dict[str, str]:
    """Python's and each package's version, "-" where it is not installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return found


def digests(workspace: Workspace, run: RetrainRun, cache: str) -> dict[str, str]:
    """{what: SHA-256} of the clips' list, the cache, the networks and the scores."""
    files = [workspace.manifest, *(workspace.retrain / entry.weights for entry in run.entries)]
    files += [workspace.evaluate / name for name in ("clips.csv", "scores.csv", "metrics.json")]
    found = {path.relative_to(workspace.root).as_posix(): file_sha256(path) for path in files if path.exists()}
    return {"features.zarr (identity of its content)": cache} | found


def commands(protocols: Sequence[Mapping[str, Any]], *, robustness: bool, oracle: bool) -> list[str]:
    """The commands whose results the page shows, in order."""
    more = [f"bmnas protocol {protocol['name']}" for protocol in protocols]
    more += ["bmnas robustness"] * robustness + ["bmnas oracle"] * oracle
    return [*(f"bmnas {stage}" for stage in _STAGES), *more, "bmnas report", "bmnas recompute work/report"]


def changed(used: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The sections of params.yaml that no longer say what this run used; `compute` never matters."""
    return sorted(key for key in used.keys() | now.keys() if key != "compute" and used.get(key) != now.get(key))


def made_elsewhere(workspace: Workspace, identity: str) -> list[str]:
    """The commands whose results, as they lie in the workspace, were made on another cache than that of this identity.

    Results that do not say on which one are not among them.
    """
    files = {
        "search": workspace.search / "search.json",
        "retrain": workspace.retrain / "retrain.json",
        "evaluate": workspace.evaluate / "metrics.json",
        "oracle": workspace.oracle / "oracle.json",
        "sweep": workspace.sweep / "sweep.csv",
        "baselines": workspace.baselines / "baselines.csv",
    } | {
        f"protocol {path.parent.name}": path for path in sorted(workspace.protocols.glob("*/protocol.json"))
    }  # fmt: skip
    return [name for name, file in files.items() if file.exists() and _made_on(file) - {"", identity}]


def _made_on(file: Path) -> set[str]:
    """The caches that a result says it is of: its field or column `cache`."""
    if file.suffix == ".json":
        return {str(read_json(file, "report").get("cache", ""))}
    return set(pd.read_csv(file, usecols=lambda name: name == "cache", dtype=str).fillna("").to_numpy().ravel())
