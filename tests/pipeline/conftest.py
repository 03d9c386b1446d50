"""Shared data: a small built-in data set, drawn once, and the stages up to the features run over it, once."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.faces.stage import build_faces
from pipeline.features.stage import build_features
from pipeline.manifest.build import build_manifest
from pipeline.params import Params, parse_params
from pipeline.sound.stage import build_spectrograms
from pipeline.synth import generate
from pipeline.workspace import Workspace
from tests.pipeline.tiny import TinyClips, draw

REALSET = Path(os.environ.get("BMNAS_REALSET") or Path(__file__).parents[3] / "shared" / "realset")
FIELD = Path(__file__).parents[3] / "shared" / "field"


@pytest.fixture(scope="session")
def synth_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 clips of six people."""
    root = tmp_path_factory.mktemp("synth")
    generate(root, identities=6, clips_per_identity=4, seed=0)
    return root


def small_params(root: Path, **changes: object) -> Params:
    """Parameters that compute in this process, without pseudo-fakes unless they are asked for."""
    content: dict[str, Any] = {
        "data": {"root": str(root), "layout": "csv"},
        "split": {"val": 0.3, "test": 0.3},
        "features": {"random_control": False},
        "compute": {"workers": 1},
        **changes,
    }
    content["features"] = {"pseudo": 0, **content["features"]}
    return parse_params(content, source="test")


def run_to_features(workspace: Workspace, params: Params) -> None:
    """manifest, spectrograms, faces, features."""
    build_manifest(workspace, params)
    build_spectrograms(workspace, params)
    build_faces(workspace, params)
    build_features(workspace, params)


@pytest.fixture(scope="session")
def small_run(synth_root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Params]:
    """The workspace of an undisturbed run up to the features. Read it only."""
    workspace, params = Workspace(tmp_path_factory.mktemp("work")), small_params(synth_root)
    run_to_features(workspace, params)
    return workspace, params


@pytest.fixture(scope="module")
def few_draws() -> Iterator[None]:
    """Intervals from a few draws of people, for who asks what is in a file and not how wide they are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.statistics.values.DRAWS", 200)
        yield


@pytest.fixture(scope="session")
def realset() -> Path:
    """Real recordings and real deepfakes, where they are at hand."""
    if not REALSET.is_dir():
        pytest.skip("the real recordings (../shared/realset) are not on this machine")
    return REALSET


@pytest.fixture(scope="session")
def field() -> Path:
    """Files of other people's projects that were read wrongly once, where they are at hand."""
    if not FIELD.is_dir():
        pytest.skip("the files of other projects (../shared/field) are not on this machine")
    return FIELD


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyClips:
    """Small clips for data set trees."""
    return draw(tmp_path_factory.mktemp("tiny"))
