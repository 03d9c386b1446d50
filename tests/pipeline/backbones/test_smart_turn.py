"""smart-turn: the package's own log-mel and network, and where its file is looked for."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.backbones import BackboneError, load_backbone
from tests.pipeline.backbones.by_max import by_max

SOUND = (torch.randn(2, 64_000, generator=torch.Generator().manual_seed(0)) * 3000).to(torch.int16)


def make(**more: Any) -> Any:
    return load_backbone.__wrapped__("audio", by_max(**{"name": "smart-turn", "layers": 6, **more}), "cpu")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BackboneError, match=r"smart-turn-v3\.2-cpu\.onnx: pip install --no-deps pipecat-ai"):
        make()


@pytest.fixture(scope="module")
def package() -> Path:
    found = importlib.util.find_spec("pipecat")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package pipecat-ai is not installed")
    return Path(found.submodule_search_locations[0])


def test_it_hears_as_the_package_does_and_the_package_is_not_imported(package: Path) -> None:
    """Sound at the end of 8 s, as log-mel: by the package's own function."""
    spec: Any = importlib.util.spec_from_file_location(
        "whisper_features", package / "audio" / "turn" / "smart_turn" / "_whisper_features.py"
    )
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    backbone = make()
    assert list(backbone.layers.values()) == [384] * 6
    for window, ours in zip(SOUND, backbone.transform(SOUND), strict=True):
        padded = np.pad(window.numpy().astype(np.float32) / 32768, (64_000, 0))
        np.testing.assert_allclose(ours.numpy(), theirs.compute_whisper_log_mel_features(padded), atol=2e-4)
    assert "pipecat" not in sys.modules


def test_of_the_zeros_before_nothing_is_kept(package: Path) -> None:
    maps = make().maps(SOUND[:1])
    assert [tuple(x.shape) for x in maps] == [(1, 384, 200)] * 6
    with pytest.raises(BackboneError, match="hears 8 s at most, the windows have 9"):
        make()(torch.zeros(1, 144_000, dtype=torch.int16), length=8)
