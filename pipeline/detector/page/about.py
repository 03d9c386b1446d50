"""The detector, as a page describes it: read from the run that it is, or that its bundle was unpacked to."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

from cache_schemas.files import file_sha256
from cache_schemas.metrics import read_metrics
from cache_schemas.run import RetrainRun, read_run
from pipeline.detector.page.shown import About, Claim
from pipeline.params import Params
from pipeline.runs.kept import kept_evidence
from pipeline.runs.worth import kept_first, warnings
from pipeline.workspace import Workspace

_PACKAGES = ("bmnas", "torch", "onnxruntime", "numpy", "av", "facenet-pytorch", "timm")
"""What scores depend on."""


def about_detector(
    workspace: Workspace, *, name: str, digest: str | None = None, options: tuple[str, ...] = ()
) -> About:
    """What is told of the detector in a workspace; name: as its user knows it; digest: a bundle's SHA-256.

    options: those of `bmnas predict` by which it is used. Raises RunFileError where the run is not finished.
    """
    source = workspace.retrain / "retrain.json"
    run, (evidence, _) = read_run(source, RetrainRun), kept_evidence(workspace)
    params = Params.model_validate(run.params)
    metrics = read_metrics(workspace.evaluate)
    head = metrics["headline"]
    return About(
        name=name,
        digest=digest or file_sha256(source),
        window_s=params.windows.window_s,
        worth=str(head["sentence"]) if head else "No searched network was scored: what it is worth is not known.",
        warnings=(*kept_first(workspace), *warnings(metrics)),
        claims={str(network): Claim(of.low, of.high, of.threshold, of.by) for network, of in evidence.systems.items()},
        versions=dict(_versions()),
        options=options,
    )


def _versions() -> Iterator[tuple[str, str]]:
    yield "Python", platform.python_version()
    for name in _PACKAGES:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
