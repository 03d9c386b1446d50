"""`bmnas bundle show`: what a bundle is, how it was trained and measured, and whether it can be used here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from safetensors import safe_open

from cache_schemas.bundle import Bundle, BundledBackbone, unpack_bundle
from cache_schemas.metrics import read_metrics
from cache_schemas.run import RetrainRun, read_run
from cache_schemas.stored_zip import refused
from pipeline.backbones import Modality, bare_identity
from pipeline.detector.opened import backbones_of, check_detector
from pipeline.params import BackboneParams, Params
from pipeline.report import verdict
from pipeline.runs.kept import kept_evidence
from pipeline.runs.worth import kept_first, warnings
from pipeline.workspace import Workspace


def bundle_card(path: Path, *, public_key: bytes | None = None) -> dict[str, Any]:
    """The card, plain JSON; raises BundleError for whatever is not as it must be.

    public_key: its owner must have signed it. Texts are those of whoever made the bundle.
    """
    with TemporaryDirectory(prefix="bmnas-detector-") as folder:
        workspace = Workspace(Path(folder))
        found = unpack_bundle(path, workspace.root, public_key=public_key)
        check_detector(path, found, workspace)
        try:
            return _card(found, workspace) | {
                "file": str(path),
                "signature": found.public_key and {"public_key": found.public_key, "checked": public_key is not None},
            }
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise refused(path, "its results", str(error).replace(folder, ""), "those that bmnas writes") from error


def _card(found: Bundle, workspace: Workspace) -> dict[str, Any]:
    run = read_run(workspace.retrain / "retrain.json", RetrainRun)
    params = Params.model_validate(run.params)
    evidence, _ = kept_evidence(workspace)
    return {
        "sha256": found.sha256,
        "bytes": found.bytes,
        "format": found.manifest.version,
        "bmnas": found.manifest.bmnas,
        "networks": found.manifest.networks,
        "parameters": sum(_numbers(workspace.retrain / entry.weights) for entry in run.entries),
        "trained": {
            "layout": params.data.layout,
            "window_s": params.windows.window_s,
            "search": params.search.estimator,
            "cache": run.cache,
        },
        **_measured(workspace),
        "limits": {
            name: {"log10_lr": [of.low, of.high], "threshold": of.threshold, "by": of.by}
            for name, of in evidence.systems.items()
        },
        "backbones": [
            described.model_dump() | _here(described, of, run.backbones, graphs=workspace.graphs.is_dir())
            for described, (_, _, of) in zip(found.manifest.backbones, backbones_of(params), strict=True)
        ],
    }


def _measured(workspace: Workspace) -> dict[str, Any]:
    metrics = read_metrics(workspace.evaluate)
    unseen = verdict.unseen(verdict.protocols_in(workspace.protocols))
    head = metrics["headline"]
    return {
        "verdict": verdict.verdict(metrics, unseen),
        "headline": head["sentence"] if head else "",
        "test": {name: int(metrics["counts"][name]) for name in ("clips", "subjects", "real_clips", "fake_clips")},
        "unseen": unseen,
        "warnings": [*kept_first(workspace), *warnings(metrics)],
    }


def _numbers(weights: Path) -> int:
    """How many a network has."""
    with safe_open(weights, "numpy") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118 - no mapping


def _here(
    described: BundledBackbone, params: BackboneParams, trained_on: Mapping[str, Any], *, graphs: bool
) -> dict[str, Any]:
    """{here, why_not}: whether this machine has the same backbone; nothing is downloaded to find that out."""
    if graphs:
        return _needs("onnxruntime", "predict") if find_spec("onnxruntime") is None else {"here": True, "why_not": ""}
    try:
        from pipeline.backbones import load_backbone  # noqa: PLC0415 - seconds, and an extra
        from pipeline.backbones.known import named  # noqa: PLC0415
    except ImportError as error:
        return _needs(error.name, "train")
    modality: Modality = described.modality
    if params.weights == "hub" and ((of := named(params.name, hub=True)) is None or of.weights != "here"):
        return {"here": False, "why_not": "not yet: its weights are to be downloaded"}
    try:
        made = bare_identity(load_backbone(modality, params, "cpu").identity())
    except Exception as error:  # of any of hundreds of networks of others
        return {"here": False, "why_not": str(error)}
    wanted = [bare_identity(of) for path, of in trained_on.items() if path.startswith(f"{modality}/")]
    if made in wanted:
        return {"here": True, "why_not": ""}
    return {"here": False, "why_not": "what is installed here has other weights or code"}


def _needs(package: str | None, extra: str) -> dict[str, Any]:
    return {"here": False, "why_not": f"it needs {package}: install bmnas with its extra `{extra}` (docs/install.md)"}
