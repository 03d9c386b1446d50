"""distillmos: the package's own numbers, its weights, and windows of other lengths than its own."""

import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from pipeline.backbones import BackboneError, distillmos_family, pool
from pipeline.backbones.fusing import relative_error
from tests.pipeline.backbones.by_max import by_max

G = torch.Generator().manual_seed(0)
SOUND = (torch.randn(2, 32000, generator=G) * torch.tensor([[3000.0], [300.0]])).to(torch.int16)
RATE_HZ = 16000


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distillmos", None)
    monkeypatch.setitem(sys.modules, "distillmos.sqa", None)
    with pytest.raises(BackboneError, match=r"needs a package .*: pip install distillmos"):
        distillmos_family.build("audio", by_max(name="distillmos"))


@pytest.fixture(scope="module")
def theirs() -> Any:
    sqa = pytest.importorskip("distillmos.sqa", reason="the package distillmos is not installed (extra speech)")
    net = sqa.ConvTransformerSQAModel(load_weights=False)
    net.load_state_dict(torch.load(sqa.DEFAULT_WEIGHTS_CHKPT, weights_only=True)["model"])
    return net.eval()


@torch.no_grad()
def by_hooks(net: Any, sound: torch.Tensor) -> list[torch.Tensor]:
    """(B, C, T) of every transformer layer as the package computes it; without its fast path, which no hook sees."""
    found: list[torch.Tensor] = []
    layers = net.transformer_pool_attn.transformer.transformer_encoder.layers
    hooks = [layer.register_forward_hook(lambda _m, _x, y: found.append(y.mT)) for layer in layers]
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        net(sound)
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
        for hook in hooks:
            hook.remove()
    return found


def make(**more: Any) -> distillmos_family.DistillMos:
    return distillmos_family.build("audio", by_max(**{"name": "distillmos", "layers": 7, **more}))


def test_bundled_layers_are_the_packages_own(theirs: Any) -> None:
    backbone = make()
    assert list(backbone.layers.items()) == [(f"audio/distillmos.layers.{i}", 200) for i in range(7)]
    reference = by_hooks(theirs, SOUND.float() / 32768)
    assert reference[0].shape == (2, 200, 384)
    for i, features in enumerate(backbone(SOUND, length=8).values()):
        ours = pool(reference[i][..., :100], length=8)  # 2 s: of what is filled up to 7.68 s nothing is kept
        assert relative_error(features, ours) < 1e-4, i


def test_a_longer_window_is_heard_in_pieces(theirs: Any) -> None:
    sound = (torch.randn(1, 10 * RATE_HZ, generator=G) * 3000).to(torch.int16)
    sound[0, 0] = 32767  # the first piece is scaled alike alone
    backbone = make(layers=(6,))
    (whole,) = backbone.maps(sound)
    assert whole.shape == (1, 200, 500)
    (first,) = backbone.maps(sound[:, :122_880])
    torch.testing.assert_close(whole[..., :384], first, rtol=1e-4, atol=1e-5)


def test_weights_from_a_file_and_from_nowhere_else(theirs: Any, tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), file)
    assert make(weights=f"file:{file}").identity() == make().identity() != make(weights="seed:0").identity()
    with pytest.raises(BackboneError, match="they come with the package, as weights: bundled"):
        make(weights="hub")
    with pytest.raises(BackboneError, match=r"for features\.audio only"):
        distillmos_family.build("visual", by_max(name="distillmos"))


def test_silence_has_features(theirs: Any) -> None:
    assert all(x.isfinite().all() for x in make()(torch.zeros(1, 8000, dtype=torch.int16), length=8).values())
