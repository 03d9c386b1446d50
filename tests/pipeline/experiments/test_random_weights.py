"""A planted cheat: what any projection of the picture tells, random weights tell as well, and a protocol says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cache_schemas.files import write_text
from cache_schemas.manifest import read_manifest
from cache_schemas.shards import ClipResult
from cache_schemas.windows import ClipWindows
from pipeline.experiments.folds import BUILT_IN
from pipeline.experiments.protocols import run_protocol
from pipeline.features.stage import build_features
from pipeline.manifest.build import build_manifest
from pipeline.params import Params
from pipeline.statistics.systems import PROBE
from pipeline.workspace import Workspace
from tests.pipeline import made_up_media
from tests.pipeline.counting import LOG
from tests.pipeline.made_up_media import made_up_params, run_before_features
from tests.pipeline.small_experiments import RETRAIN, SEARCH, small

PEOPLE = 12


@pytest.fixture
def bright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Workspace, Params]:
    """Of every person a real clip and a fake one that is a little brighter, and knows of it in nothing else."""
    monkeypatch.setenv(LOG, str(tmp_path / "counts"))
    rows = [(f"p{i}-{label}.mp4", f"p{i}", label) for i in range(PEOPLE) for label in ("real", "fake")]
    for name, *_ in rows:
        write_text(tmp_path / "data" / name, name)
    lines = ["path,subject_id,video_label,audio_label", *(f"{name},{who},{label},real" for name, who, label in rows)]
    (tmp_path / "data" / "manifest.csv").write_text("\n".join(lines) + "\n")
    nets = {
        modality: [{"name": "tests.pipeline.counting:small", "weights": "seed:1"}] for modality in ("visual", "audio")
    }
    own = made_up_params(tmp_path / "data", features={**nets, "length": 4})
    params = own.model_copy(
        update={
            name: getattr(small(seeds=(0,), search=SEARCH, retrain=RETRAIN | {"epochs": 30, "weight_lr": 0.02}), name)
            for name in ("search", "retrain", "seeds")
        }
    )
    workspace = Workspace(tmp_path / "work")
    build_manifest(workspace, params)
    fakes = {clip.clip_id for clip in read_manifest(workspace.manifest) if clip.label}
    drawn = made_up_media._faces

    def brighter(windows: ClipWindows, of: Params) -> ClipResult:
        result: Any = drawn(windows, of)
        crops = result.arrays["crops"] // 4 + (120 if windows.clip_id in fakes else 60)
        return ClipResult(
            result.clip_id, result.plan, result.starts_s, result.arrays | {"crops": crops.astype(np.uint8)}
        )

    monkeypatch.setattr(made_up_media, "_faces", brighter)
    run_before_features(workspace, params)
    build_features(workspace, params)
    return workspace, params


def test_it_adds_nothing_to_random_weights(
    bright: tuple[Workspace, Params], capsys: pytest.CaptureFixture[str]
) -> None:
    workspace, params = bright
    protocol = BUILT_IN["people"].model_copy(update={"methods": ("search",), "folds": 3})
    found = run_protocol(workspace, params, "people", protocol)
    auc = found.table.set_index("method")["auc"]
    assert auc["search"] > 0.8
    assert auc[f"random weights, {PROBE}"] > 0.95
    assert "random weights, search" in auc
    assert found.adds
    assert found.adds["pairs"]["control"].startswith("random weights")
    assert found.adds["pairs"]["low"] <= 0

    without = params.features.model_copy(update={"random_control": False})
    build_features(workspace, params.model_copy(update={"features": without}))
    table = run_protocol(workspace, params, "people", protocol).table
    assert not table["method"].str.startswith("random weights").any()
    said = " ".join(capsys.readouterr().err.split())
    assert "3 already done, 0 to do" in said
    assert "without random weights: params.yaml says features.random_control: false" in said
