"""What every backbone must do, whatever its family; and the registry."""

import hashlib
import itertools
import json
import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.utils._pytree as pytree
import torchaudio
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.backbones import Backbone, BackboneError, Modality, base, load_backbone, pool, timm_family
from pipeline.backbones.fusing import relative_error
from pipeline.backbones.onnx_family import OnnxBackbone
from pipeline.params import BackboneParams, layer_prefix
from tests.pipeline.backbones.by_max import by_max

Make = Callable[..., Backbone]

B, T, S, L = 4, 4, 96, 8
MEMBERS: list[tuple[Modality, str]] = [
    ("visual", "tf_efficientnet_lite0"),
    ("audio", "resnet18"),
    ("visual", "vit_tiny_patch16_224"),
    ("visual", "torchvision:mobilenet_v3_small"),
    ("audio", "torchvision:mobilenet_v3_small"),
    ("visual", "torchvision:r3d_18"),
    ("visual", "facenet:InceptionResnetV1"),
    ("visual", "inflated:resnet50"),
    ("audio", "torchaudio:TINY"),
    *([("audio", "distillmos")] if find_spec("distillmos") else []),  # extras
    *(
        [("visual", "onnx:picture.onnx#conv,deep"), ("audio", "onnx:sound.onnx#steps,deep")]
        if find_spec("onnx")
        else []
    ),
    *([("audio", "smart-turn")] if find_spec("pipecat") else []),
    *(
        [
            (modality, f"transformers:./transformers/{name}")
            for modality, name in (
                ("audio", "xls-r"),
                ("audio", "whisper"),
                ("visual", "dinov3"),
                ("visual", "videomae"),
            )
        ]
        if find_spec("transformers")
        else []
    ),
    ("visual", "tests.pipeline.backbones.test_base:brightness"),
]
member = pytest.mark.parametrize(("modality", "name"), MEMBERS)
TINY_SPEECH = {
    **torchaudio.pipelines.WAV2VEC2_BASE._params,
    "extractor_conv_layer_config": [(16, 10, 5), (16, 3, 2), (16, 3, 2), (16, 3, 2), (16, 2, 2), (16, 2, 2)],
    "encoder_embed_dim": 32,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 5,
    "encoder_num_heads": 2,
    "encoder_ff_interm_features": 48,
}


class Brightness(Backbone):
    """The smallest backbone of one's own: each frame's largest red, green and blue."""

    def maps(self, windows: torch.Tensor) -> list[torch.Tensor]:
        return [self.net(windows.permute(0, 4, 1, 2, 3).to(self.dtype))]


def brightness(modality: Modality, params: BackboneParams) -> Backbone:
    """As a user would write it."""
    net = torch.nn.Conv3d(3, 3, 1)
    net.load_state_dict({"weight": torch.eye(3)[:, :, None, None, None], "bias": torch.zeros(3)})
    return Brightness(modality, params, net, input="crops", stages=[("colour", 3)], transform="none")


@pytest.fixture(autouse=True)
def tiny_networks(
    monkeypatch: pytest.MonkeyPatch, onnx_files: Path, transformers_folders: Path, tmp_path: Path
) -> None:
    """torchaudio.pipelines.TINY, of the large models' kind: its waveforms are standardised; ONNX files; folders."""
    for path in onnx_files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "transformers").symlink_to(transformers_folders)
    monkeypatch.chdir(tmp_path)
    bundle = torchaudio.pipelines.Wav2Vec2Bundle("tiny.pth", TINY_SPEECH, 16000, True, "Wav2Vec2")
    monkeypatch.setattr(torchaudio.pipelines, "TINY", bundle, raising=False)


def make(modality: Modality, name: str, *, weights: str = "seed:0", **more: object) -> Backbone:
    """A new one, not the process's."""
    return load_backbone.__wrapped__(modality, by_max(name=name, weights=weights, **more), "cpu")


def windows_for(backbone: Backbone, *, n: int = B, seed: int = 0) -> torch.Tensor:
    """Random windows of the kind that it takes, of different loudness and brightness."""
    g = torch.Generator().manual_seed(seed)
    gain = torch.linspace(0.2, 1, n)
    if backbone.input == "crops":
        return (torch.randint(0, 256, (n, T, S, S, 3), generator=g) * gain.view(-1, 1, 1, 1, 1)).to(torch.uint8)
    if backbone.input == "spectrogram":
        return torch.randn(n, 80, 120, generator=g) * gain.view(-1, 1, 1) + gain.view(-1, 1, 1)
    return (torch.randn(n, 8000, generator=g) * 3000 * gain.view(-1, 1)).to(torch.int16)


@member
def test_features_are_as_described(modality: Modality, name: str) -> None:
    backbone = make(modality, name)
    found = backbone(windows_for(backbone), length=L)
    assert {layer: tuple(x.shape) for layer, x in found.items()} == {n: (B, L, c) for n, c in backbone.layers.items()}
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in found.values())
    assert all(layer.startswith(f"{modality}/{layer_prefix(name)}.") for layer in found)
    assert (backbone.name, backbone.modality) == (name, modality)
    assert not backbone.net.training
    assert not any(p.requires_grad for p in backbone.net.parameters())


@member
def test_a_window_does_not_feel_its_neighbours(modality: Modality, name: str) -> None:
    backbone = make(modality, name)
    windows = windows_for(backbone)
    alone = {layer: x[0] for layer, x in backbone(windows[:1], length=L).items()}
    together = {layer: x[0] for layer, x in backbone(windows, length=L).items()}
    order = [2, 3, 0, 1]
    permuted = {layer: x[2] for layer, x in backbone(windows[order], length=L).items()}
    others = torch.cat([windows[:1], windows_for(backbone, seed=1)[1:]])
    exchanged = {layer: x[0] for layer, x in backbone(others, length=L).items()}
    for layer, x in together.items():
        assert torch.equal(permuted[layer], x), layer
        assert torch.equal(exchanged[layer], x), layer
        assert relative_error(alone[layer], x) < 1e-5, layer


@member
def test_folding_changes_features_by_less_than_a_ten_thousandth(
    modality: Modality, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = make(modality, name)
    monkeypatch.setattr(base, "fuse_conv_bn", lambda net, _: net)
    plain = make(modality, name)
    windows = windows_for(ours, n=1)
    reference = plain(windows, length=L)
    for layer, x in ours(windows, length=L).items():
        assert relative_error(x, reference[layer]) < 1e-4, layer
    assert ours.identity() == plain.identity()  # it names the weights as they came


@member
def test_identity_is_json_and_follows_everything_that_changes_features(
    modality: Modality, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "HALF_TOLERANCE", float("inf"))  # random weights can be worthless in half precision
    made = make(modality, name)
    identity = made.identity()
    assert json.loads(json.dumps(identity)) == identity == make(modality, name).identity()
    assert len(identity["weights_sha256"]) == 64
    if isinstance(made, OnnxBackbone):
        with pytest.raises(BackboneError, match="computes as its file says: set precision: full"):
            make(modality, name, precision="half")
    elif name != "torchvision:r3d_18":  # 12 s on a CPU; another one is over clips, too
        assert make(modality, name, precision="half").identity() == identity | {"precision": "half"}
    if name.startswith("tests."):
        return  # it has no random weights and one layer
    assert make(modality, name, weights="seed:1").identity()["weights_sha256"] != identity["weights_sha256"]
    fewer = make(modality, name, layers=2)
    assert list(fewer.layers) == list(made.layers)[-2:]
    assert fewer.identity() == identity  # a layer's features do not depend on which others are kept


@pytest.mark.parametrize(("name", "folds"), [("tf_efficientnet_lite0", True), (MEMBERS[-1][1], False)])
def test_versions_of_the_code_are_named_from_the_second_one_on(
    name: str, folds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As caches from before there were versions have none."""
    first = make("visual", name).identity()
    assert not [key for key in first if "version" in key]
    monkeypatch.setattr(base, "POOLING_VERSION", 2)
    monkeypatch.setattr(base, "FOLDING_VERSION", 3)
    expected = first | {"pooling_version": 2} | ({"folding_version": 3} if folds else {})
    assert make("visual", name).identity() == expected
    monkeypatch.setattr(timm_family, "VERSION", 4)
    assert make("visual", name).identity() == expected | ({"version": 4} if folds else {})


def test_a_backbone_of_ones_own_is_named_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for i, text in enumerate(["", "", "# other code\n"]):
        path = tmp_path / f"own_module{i}.py"
        path.write_text(f"{text}from {__name__} import brightness\n")
        params = by_max(name=f"own_module{i}:brightness", weights="seed:0")
        identity = load_backbone("visual", params, "cpu").identity()
        found.append({key: value for key, value in identity.items() if key != "name"})
    assert found[0] == found[1] != found[2]
    assert found[2]["source_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


@member
def test_seeds_leave_the_random_state_alone(modality: Modality, name: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    make(modality, name)
    assert torch.equal(torch.rand(3), expected) or name.startswith("tests.")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "torchaudio:TINY"])
def test_half_precision_stays_within_a_hundredth(name: str) -> None:
    modality: Modality = "audio" if "torchaudio" in name else "visual"
    weights = "seed:0" if "torchaudio" in name else "bundled"
    full, half = (make(modality, name, weights=weights, precision=p) for p in ("full", "half"))
    windows = windows_for(full, n=1)[:, :2] if modality == "visual" else windows_for(full, n=1)
    reference = full(windows, length=2)
    for layer, x in half(windows, length=2).items():
        assert x.dtype == torch.float32
        assert 0 < relative_error(x, reference[layer]) < 1e-2, layer


def test_half_precision_that_changes_features_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.backbones.base.HALF_TOLERANCE", 1e-9)
    with pytest.raises(BackboneError, match=r"precision: half changes a layer by .* set precision: full"):
        make("visual", "test_resnet", precision="half")


def test_the_same_stages_by_number_in_any_order() -> None:
    names = [list(make("visual", "resnet18", layers=x).layers) for x in ((3, 1), (1, 3), 2)]
    assert names[0] == names[1] == ["visual/resnet18.layer1", "visual/resnet18.layer3"]
    assert names[2] == ["visual/resnet18.layer3", "visual/resnet18.layer4"]
    deep, all_stages = make("visual", "resnet18", layers=(1, 3)), make("visual", "resnet18", layers=5)
    windows = windows_for(deep, n=1)
    found, reference = deep(windows, length=L), all_stages(windows, length=L)
    assert all(torch.equal(x, reference[layer]) for layer, x in found.items())


@pytest.mark.parametrize(
    ("modality", "name", "weights", "message"),
    [
        ("visual", "no_such_net", "seed:0", "Any timm name works"),
        ("visual", "resnet18", "bundled", "only tf_efficientnet_lite0 and tf_efficientnet_lite2 have bundled weights"),
        ("visual", "resnet18", "file:/nowhere.safetensors", "no such file"),
        ("visual", "torchvision:resnet18", "bundled", "has no bundled weights; use hub, file:PATH or seed:N"),
        ("visual", "torchvision:swin_t", "seed:0", "not one of torchvision's networks .* alexnet, "),
        ("audio", "torchvision:r3d_18", "seed:0", "for features.visual only"),
        ("visual", "facenet:MTCNN", "seed:0", "has only facenet:InceptionResnetV1"),
        ("audio", "facenet:InceptionResnetV1", "seed:0", "for features.visual only"),
        ("visual", "inflated:resnet18", "seed:0", "only inflated:resnet50"),
        ("audio", "inflated:resnet50", "seed:0", "for features.visual only"),
        ("audio", "torchaudio:TACOTRON2_WAVERNN_CHAR_LJSPEECH", "seed:0", "bundles: .*WAVLM_BASE"),
        ("visual", "torchaudio:TINY", "seed:0", "for features.audio only"),
        (
            "visual",
            "no_such_module:net",
            "seed:0",
            "No module named 'no_such_module'.* `bmnas backbones` lists",
        ),
        ("visual", "math:no_such_thing", "seed:0", "has no attribute 'no_such_thing'"),
        ("visual", "builtins:dict", "seed:0", "must be a subclass of pipeline.backbones.Backbone"),
    ],
)
def test_errors_say_what_is_possible(modality: Modality, name: str, weights: str, message: str) -> None:
    if name == "builtins:dict":
        name = "tests.pipeline.backbones.test_base:no_backbone"
    with pytest.raises(BackboneError, match=message):
        make(modality, name, weights=weights)


def no_backbone(modality: Modality, params: BackboneParams) -> dict[str, str]:
    """What a builder must not return."""
    return {modality: params.name}


@pytest.mark.parametrize("layers", [9, (1, 7), (-1,), 0, ()])
def test_stages_that_do_not_exist_are_refused(layers: object) -> None:
    with pytest.raises(BackboneError, match=r"it has 5 stages \(0 to 4\)"):
        make("visual", "resnet18", layers=layers)


def test_other_windows_than_its_own_are_refused() -> None:
    backbone = make("visual", "tests.pipeline.backbones.test_base:brightness")
    good = windows_for(backbone)
    for bad in (good[0], good.float(), good[..., :2]):
        with pytest.raises(BackboneError, match=r"takes crops \(B, T, S, S, 3\) torch.uint8, not "):
            backbone(bad, length=L)


def test_ones_own_lies_beside_the_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bmnas_test_own_backbone.py").write_text(
        "from tests.pipeline.backbones.test_base import brightness\nmake = brightness\n"
    )
    monkeypatch.chdir(tmp_path)
    backbone = make("visual", "bmnas_test_own_backbone:make")
    assert list(backbone.layers) == ["visual/bmnas_test_own_backbone_make.colour"]
    windows = windows_for(backbone)
    (found,) = backbone(windows, length=T).values()
    assert torch.equal(found, windows.amax(dim=(2, 3)).float())


def test_one_of_each_per_process() -> None:
    params = by_max(name="tests.pipeline.backbones.test_base:brightness", weights="seed:0")
    assert load_backbone("visual", params, "cpu") is load_backbone("visual", params, "cpu")


def test_pooling_is_a_maximum_over_space_then_time() -> None:
    N, C, F = 2, 3, 5
    g = torch.Generator().manual_seed(0)
    clips = torch.randn(N, C, 13, F, 4, generator=g)
    assert torch.equal(pool(clips, length=L), torch.nn.AdaptiveMaxPool3d((L, 1, 1))(clips).flatten(2).mT)
    sound = torch.randn(N, C, F, 13, generator=g)
    reference = torch.nn.AdaptiveMaxPool2d((1, L))(sound).flatten(2)
    assert torch.equal(pool(sound.transpose(2, 3), length=L), reference.mT)
    steps = torch.randn(N, C, 13, generator=g)
    assert torch.equal(pool(steps, length=L), torch.nn.AdaptiveMaxPool1d(L)(steps).mT)
    still = torch.randn(N, C, 1, 1, 1, generator=g)
    assert torch.equal(pool(still, length=L), still.flatten(2).expand(-1, -1, L).mT)
    by_hand = [
        [max(clips[n, c, 2 * i : 2 * i + 2].flatten()) for i in range(2)] for n, c in itertools.product([0, 1], [0, 2])
    ]
    assert torch.equal(pool(clips[:, ::2, :4], length=2).mT.flatten(0, 1), torch.tensor(by_hand))


@pytest.mark.parametrize(
    ("shape", "length"), [((2, 3, 13, 5, 4), 8), ((2, 3, 13, 7), 3), ((2, 3, 40), 8), ((2, 3, 2), 8)]
)
def test_pooling_by_numpy(shape: tuple[int, ...], length: int) -> None:
    """Every kind over the same parts, one behind the other along the channels."""
    found = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 100
    kinds = {"max": np.max, "mean": np.mean, "deviation": np.std}
    of_part = []
    for i in range(length):
        part = found.double().numpy()[:, :, math.floor(i * shape[2] / length) : math.ceil((i + 1) * shape[2] / length)]
        of_part.append(np.concatenate([kind(part.reshape(2, 3, -1), axis=2) for kind in kinds.values()], axis=1))
    ours = pool(found, length=length, kinds=("max", "mean", "deviation"))
    assert ours.shape == (2, length, 9)
    np.testing.assert_allclose(ours.numpy(), np.stack(of_part, axis=1), rtol=1e-6, atol=1e-5)


def test_a_class_token_is_pooled_by_its_mean_over_the_part() -> None:
    feature_map, token = torch.randn(2, 3, 6, 4, 4), torch.randn(2, 3, 6)
    found = pool(feature_map, length=3, kinds=("mean", "token"), token=token)
    assert torch.equal(found[..., :3], pool(feature_map, length=3, kinds=("mean",)))
    torch.testing.assert_close(found[..., 3:], token.unflatten(2, (3, 2)).mean(dim=3).mT)
    assert torch.equal(pool(feature_map, length=3, kinds=("token",), token=token), found[..., 3:])


@member
def test_poolings_are_further_channels_and_another_identity(modality: Modality, name: str) -> None:
    plain, more = make(modality, name), make(modality, name, pool=["deviation", "max"])
    assert more.layers == {layer: 2 * channels for layer, channels in plain.layers.items()}
    assert plain.identity()["pooling"] == "maximum over space, adaptive maximum over time"  # as in older caches
    assert more.identity() == plain.identity() | {"pooling": "max, deviation over space and parts of time"}
    windows = windows_for(plain, n=1)
    reference = plain(windows, length=2)
    for layer, found in more(windows, length=2).items():
        assert torch.equal(found[..., : plain.layers[layer]], reference[layer])
        assert (found[..., plain.layers[layer] :] >= 0).all()


class _NoCopies(TorchDispatchMode):
    """Refuses to carry what lies on the CPU to another device: each copy would wait for all that a GPU has to do."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        made = [x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor)]
        assert not (any(x.is_cpu for x in given) and any(x.is_meta for x in made)), f"{func} copies to the device"
        return found


@pytest.mark.parametrize(
    ("modality", "name"),
    [
        member
        for member in MEMBERS
        if member[1].endswith(("lite0", "resnet18", "r3d_18", "inflated:resnet50", "TINY", "dinov3"))
    ],
)
def test_all_that_a_pass_needs_lies_on_its_device(modality: Modality, name: str) -> None:
    """On `meta`, where nothing is computed."""
    backbone = make(modality, name).to("meta")
    windows = windows_for(backbone).to("meta")
    with _NoCopies(), torch.inference_mode():
        maps = backbone.maps(windows)
    assert all(x.is_meta for x in maps)
