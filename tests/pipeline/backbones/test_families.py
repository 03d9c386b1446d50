"""torchvision, facenet-pytorch, torchaudio and the inflated ResNet-50: the libraries' own numbers, and weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import facenet_pytorch
import pytest
import safetensors.torch
import torch
import torchaudio
import torchvision

from pipeline.backbones import BackboneError, facenet_family, inflated, pool, torchaudio_family, torchvision_family
from pipeline.backbones.fusing import relative_error
from tests.pipeline.backbones.by_max import by_max
from tests.pipeline.backbones.test_base import TINY_SPEECH, make
from tests.pipeline.backbones.test_fusing import lived, norms

B, T, S = 2, 4, 96
CROPS = torch.randint(0, 256, (B, T, S, S, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
FRAMES = CROPS.flatten(0, 1).permute(0, 3, 1, 2) / 255
SOUND = (torch.randn(B, 8000, generator=torch.Generator().manual_seed(0)) * 3000).to(torch.int16)
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


def saved(net: torch.nn.Module, path: Path, **changes: torch.Tensor) -> str:
    """The `weights` that name the network's, in a file."""
    safetensors.torch.save_file({**net.state_dict(), **changes}, path)
    return f"file:{path}"


def of_frames(feature_map: torch.Tensor) -> torch.Tensor:
    """(B, T, C) pooled, from frames (B * T, C, H, W)."""
    return pool(feature_map.unflatten(0, (B, T)).transpose(1, 2), length=T)


def close(found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> None:
    """Within the promised 1e-4, layer by layer."""
    assert list(found) == list(expected)
    for name, reference in expected.items():
        assert relative_error(found[name], reference) < 1e-4, name


def test_torchvisions_resnet_by_hand(tmp_path: Path) -> None:
    net: Any = lived(torchvision.models.resnet18())
    weights = saved(net, tmp_path / "w.safetensors")
    backbone = torchvision_family.build("visual", by_max(name="torchvision:resnet18", weights=weights))
    with torch.inference_mode():
        x = net.maxpool(net.relu(net.bn1(net.conv1((FRAMES - MEAN) / STD))))
        expected = {}
        for i in range(1, 5):
            x = getattr(net, f"layer{i}")(x)
            expected[f"visual/torchvision_resnet18.layer{i}"] = of_frames(x)
    assert norms(backbone.net) == 0  # folded, not left alone
    close(backbone(CROPS, length=T), expected)


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("mobilenet_v3_small", ["features.1", "features.3", "features.8", "features.12"]),
        ("regnet_y_400mf", [f"trunk_output.block{i}" for i in range(1, 5)]),
        ("shufflenet_v2_x0_5", ["maxpool", "stage2", "stage3", "conv5"]),
        ("squeezenet1_1", ["features.1", "features.4", "features.7", "features.12"]),
        ("inception_v3", ["Conv2d_4a_3x3", "Mixed_5d", "Mixed_6e", "Mixed_7c"]),
    ],
)
def test_a_stage_ends_where_the_picture_shrinks_next(name: str, stages: list[str]) -> None:
    backbone = torchvision_family.build("visual", by_max(name=f"torchvision:{name}", weights="seed:0"))
    assert list(backbone.layers) == [f"visual/torchvision_{name}.{stage}" for stage in stages]


def test_torchvisions_one_channel_sums_the_stems_colour_weights() -> None:
    params = by_max(name="torchvision:resnet18", weights="seed:0", layers=(0,))
    grey, colour = (torchvision_family.build(m, params) for m in ("audio", "visual"))
    sound = torch.randn(1, 80, 64)
    picture = ((sound - sound.mean()) / sound.std())[:, None]
    (found,) = grey(sound, length=8).values()
    with torch.inference_mode():
        (reference,) = colour.net(picture.expand(-1, 3, -1, -1).contiguous())
    assert relative_error(found, pool(reference.transpose(2, 3), length=8)) < 1e-4


def test_downloads_never_unpickle_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub's own default would."""
    asked = []

    def offline(url: str, **options: object) -> None:
        asked.append(options.get("weights_only"))
        raise OSError("no network")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    monkeypatch.setattr("torchaudio.pipelines._wav2vec2.utils.load_state_dict_from_url", offline)
    for build, modality, name in (
        (torchvision_family.build, "visual", "torchvision:resnet18"),
        (inflated.build, "visual", "inflated:resnet50"),
        (torchaudio_family.build, "audio", "torchaudio:HUBERT_BASE"),
    ):
        with pytest.raises(BackboneError, match="cannot be downloaded: no network; without network use file:PATH"):
            build(modality, by_max(name=name, weights="hub"))
    assert asked == [True, True, True]


def test_facenet_by_hand(tmp_path: Path) -> None:
    net: Any = lived(facenet_pytorch.InceptionResnetV1())
    weights = saved(net, tmp_path / "w.safetensors", **{"logits.bias": torch.zeros(8631)})
    backbone = facenet_family.build("visual", by_max(name="facenet:InceptionResnetV1", weights=weights))
    assert list(backbone.layers.values()) == [192, 256, 896, 1792]
    with torch.inference_mode():
        x = facenet_pytorch.fixed_image_standardization(FRAMES * 255)
        expected = {}
        for name, part in net.named_children():
            if name == "avgpool_1a":
                break
            x = part(x)
            if name in ("conv2d_4a", "repeat_1", "repeat_2", "block8"):
                expected[f"visual/facenet_InceptionResnetV1.{name}"] = of_frames(x)
    close(backbone(CROPS, length=T), expected)


def test_the_inflated_network_sees_frames_as_the_flat_one_does(tmp_path: Path) -> None:
    """Two-dimensional weights lie in the middle of the kernels: frame by frame, it is torchvision's ResNet-50."""
    net: Any = lived(torchvision.models.resnet50())
    weights = saved(net, tmp_path / "w.safetensors")
    backbone = inflated.build("visual", by_max(name="inflated:resnet50", weights=weights))
    assert list(backbone.layers.values()) == [512, 1024, 2048, 2048]  # the reference's taps
    with torch.inference_mode():
        x = net.layer1(net.maxpool(net.relu(net.bn1(net.conv1((FRAMES - MEAN) / STD)))))
        expected = {}
        for i in range(2, 5):
            x = getattr(net, f"layer{i}")(x)
            expected[f"visual/inflated_resnet50.layer{i}"] = of_frames(x)
        average = x.mean(dim=(2, 3)).unflatten(0, (B, T)).mean(dim=1)
    expected["visual/inflated_resnet50.average"] = average[:, None].expand(-1, T, -1)
    close(backbone(CROPS, length=T), expected)


def test_inflated_weights_see_other_frames_too(tmp_path: Path) -> None:
    plain = inflated.build("visual", by_max(name="inflated:resnet50", weights="seed:0", layers=(1,)))
    state = {f"layer{i}.{n}": x for i in (1, 2) for n, x in plain.net.get_submodule(f"layer{i}").state_dict().items()}
    assert state["layer1.0.conv2.weight"].shape == (64, 64, 3, 3, 3)
    whole = torchvision.models.resnet50()
    inflated_state = {
        name: x[:, :, None].expand(-1, -1, x.shape[-1], -1, -1).contiguous() if "layer" in name and x.ndim == 4 else x
        for name, x in whole.state_dict().items()
    }
    safetensors.torch.save_file(inflated_state, tmp_path / "w.safetensors")
    weights = f"file:{tmp_path / 'w.safetensors'}"
    spread = inflated.build("visual", by_max(name="inflated:resnet50", weights=weights, layers=(1,)))
    for backbone, feels in ((plain, False), (spread, True)):
        other = CROPS.clone()
        other[:, 3] = 255 - other[:, 3]
        (a,), (b,) = backbone(CROPS, length=T).values(), backbone(other, length=T).values()
        assert torch.equal(a[:, 2], b[:, 2]) != feels


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small bundles: TINY's waveforms are standardised, PLAIN's not; LM is a WavLM, ASR has a head."""
    kind = torchaudio.pipelines.Wav2Vec2Bundle
    lm = {
        **torchaudio.pipelines.WAVLM_BASE._params,
        **{k: v for k, v in TINY_SPEECH.items() if k in torchaudio.pipelines.WAVLM_BASE._params},
    }
    for name, bundle in {
        "TINY": kind("", TINY_SPEECH, 16000, True, "Wav2Vec2"),
        "PLAIN": kind("", TINY_SPEECH, 16000, False, "Wav2Vec2"),
        "LM": kind("", lm, 16000, False, "WavLM"),
    }.items():
        monkeypatch.setattr(torchaudio.pipelines, name, bundle, raising=False)


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("name", ["TINY", "PLAIN", "LM"])
def test_torchaudios_layers_by_hand(name: str, tmp_path: Path) -> None:
    bundle: Any = getattr(torchaudio.pipelines, name)
    factory = torchaudio.models.wavlm_model if name == "LM" else torchaudio.models.wav2vec2_model
    net = factory(**{**bundle._params, "aux_num_out": 5}).eval()
    old = {"original0": "weight_g", "original1": "weight_v"}  # as in the published files
    state = {k.replace("parametrizations.weight.original0", "weight_g"): v for k, v in net.state_dict().items()}
    state = {k.replace("parametrizations.weight.original1", "weight_v"): v for k, v in state.items()}
    assert any(key.endswith(old["original0"]) for key in state)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    params = by_max(name=f"torchaudio:{name}", weights=f"file:{tmp_path / 'w.safetensors'}", layers=(1, 3))
    backbone = torchaudio_family.build("audio", params)
    with torch.inference_mode():
        expected = []
        for sound in SOUND:
            x = (sound.float() / 32768)[None]
            if name == "TINY":
                x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5)
            outputs, _ = net.extract_features(x)
            expected.append([outputs[i].transpose(1, 2) for i in (1, 3)])
    found = backbone(SOUND, length=4)
    assert list(found) == [f"audio/torchaudio_{name}.layers.{i}" for i in (1, 3)]
    for i, features in enumerate(found.values()):
        reference = pool(torch.cat([window[i] for window in expected]), length=4)
        assert relative_error(features, reference) < 1e-4


@pytest.mark.slow
def test_a_published_bundle_is_built_without_a_download() -> None:
    params = by_max(name="torchaudio:WAV2VEC2_BASE", weights="seed:0", layers=(0, 1))
    backbone = torchaudio_family.build("audio", params)
    assert list(backbone.layers.items()) == [(f"audio/torchaudio_WAV2VEC2_BASE.layers.{i}", 768) for i in (0, 1)]
    assert all(x.shape == (B, 8, 768) for x in backbone(SOUND, length=8).values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer1.0.conv1.weight": None}, "lack layer1.0.conv1.weight .*another network"),
        ({"layer9.weight": torch.zeros(1)}, "have layer9.weight, which the network has not"),
        ({"layer1.0.conv1.weight": torch.zeros(3)}, "size mismatch"),
    ],
)
def test_weights_of_another_network_are_refused(
    change: dict[str, torch.Tensor | None], message: str, tmp_path: Path
) -> None:
    state = {**torchvision.models.resnet18().state_dict(), **change}
    safetensors.torch.save_file({k: v for k, v in state.items() if v is not None}, tmp_path / "w.safetensors")
    weights = f"file:{tmp_path / 'w.safetensors'}"
    with pytest.raises(BackboneError, match=message):
        torchvision_family.build("visual", by_max(name="torchvision:resnet18", weights=weights))


@pytest.mark.parametrize("name", ["torchvision:r3d_18", "inflated:resnet50"])
def test_networks_over_clips_are_channels_last_on_a_gpu(name: str) -> None:
    """On the CPU they stay as they were, so that features do to the bit."""
    backbone, formats = make("visual", name), {4: torch.channels_last, 5: torch.channels_last_3d}
    kernels = [p for p in backbone.net.parameters() if p.shape[2:].numel() > 1 and p.shape[1] > 1]
    assert kernels
    assert all(p.is_contiguous() for p in kernels)
    backbone.to("meta")
    kernels = [p for p in backbone.net.parameters() if p.shape[2:].numel() > 1 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=formats[p.ndim]) for p in kernels)
