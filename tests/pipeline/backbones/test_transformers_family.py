"""transformers: the library's own hidden states, of folders and of the hub; and what is refused."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors.torch
import torch

from pipeline.backbones import Backbone, BackboneError, Modality, load_backbone, resolved
from pipeline.backbones.fusing import relative_error
from pipeline.backbones.transformers_sources import KINDS, PUBLISHED
from pipeline.params import BackboneParams, layer_prefix
from tests.pipeline.backbones.by_max import by_max
from tests.pipeline.backbones.tiny_transformers import HEARING, PICTURE, TINY, TOKENED, change, network

G = torch.Generator().manual_seed(0)
CROPS = torch.randint(0, 256, (2, 4, 48, 48, 3), dtype=torch.uint8, generator=G)
SOUND = (torch.randn(2, 8000, generator=G) * torch.tensor([[3000.0], [300.0]])).to(torch.int16)
every = pytest.mark.parametrize("name", TINY)


@pytest.fixture(autouse=True)
def _installed() -> None:
    pytest.importorskip("transformers", reason="the package transformers is not installed (extra transformers)")


@pytest.fixture
def tiny(transformers_folders: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of folders, which names are relative to."""
    monkeypatch.chdir(transformers_folders)
    return transformers_folders


@pytest.fixture
def own(tiny: Path, tmp_path: Path) -> Path:
    """A copy of one that the test may change."""
    return Path(shutil.copytree(tiny / "vit", tmp_path / "vit"))


def make(name: str, *, modality: Modality | None = None, **more: Any) -> Any:
    """Of the tiny ones all layers."""
    found = modality or ("audio" if name.rpartition("/")[2] in HEARING else "visual")
    return load_backbone.__wrapped__(found, by_max(**{"name": f"transformers:{name}", "layers": 4} | more), "cpu")


def windows_for(backbone: Backbone) -> torch.Tensor:
    return CROPS if backbone.input == "crops" else SOUND


def prepared(folder: Path, name: str) -> Any:
    """What the library itself feeds the network."""
    import transformers

    if name == "whisper":
        feed: Any = transformers.WhisperFeatureExtractor.from_pretrained(folder)
        return feed(list(SOUND.numpy() / 32768), sampling_rate=16000, return_tensors="pt").input_features
    if name in HEARING:
        feed = transformers.Wav2Vec2FeatureExtractor.from_pretrained(folder)
        return feed(list(SOUND.numpy() / 32768), sampling_rate=16000, return_tensors="pt").input_values
    frames = CROPS.permute(0, 1, 4, 2, 3)
    feed = transformers.CLIPImageProcessor.from_pretrained(folder)
    found = feed(list(frames.flatten(0, 1)), return_tensors="pt").pixel_values
    if name == "videomae":
        return found.unflatten(0, (2, 4)).repeat_interleave(2, dim=1)  # it takes 8
    return found.unflatten(0, (2, 4)) if name == "vjepa2" else found


def part(net: Any) -> Any:
    """The network that is wanted, of one of several."""
    kind = type(net).__name__
    return net.vision_model if kind in ("CLIPModel", "SiglipModel") else net.encoder if kind == "WhisperModel" else net


@every
def test_layers_are_the_librarys_own_hidden_states(name: str, tiny: Path) -> None:
    backbone = make(f"./{name}")
    more = {"skip_predictor": True} if name == "vjepa2" else {}
    with torch.inference_mode():
        states = part(network(name))(prepared(tiny / name, name), output_hidden_states=True, **more).hidden_states
    assert list(backbone.layers) == [f"{backbone.modality}/transformers_{name}.hidden_states.{i}" for i in range(4)]
    assert set(backbone.layers.values()) == {32}
    if name == "whisper":
        states = [x[:, :25] for x in states[:-1]]  # half a second; the last is normalised in the library
    elif name in ("videomae", "vjepa2"):
        states = [x.unflatten(1, (-1, 16)) for x in states]
    elif name not in HEARING:
        states = [x[:, -16:].unflatten(0, (2, 4)) for x in states]
    for found, state in zip(backbone.maps(windows_for(backbone)), states, strict=False):
        ours = found if name in HEARING else found.flatten(3)
        assert relative_error(ours, state.movedim(-1, 1)) < 1e-4


@pytest.mark.parametrize("name", TOKENED)
def test_the_class_token_is_a_pool_of_its_own(name: str, tiny: Path) -> None:
    backbone = make(f"./{name}", pool=["token", "mean"], layers=(3,))
    with torch.inference_mode():
        *_, state = part(network(name))(prepared(tiny / name, name), output_hidden_states=True).hidden_states
    frames = state.unflatten(0, (2, 4))
    (found,) = backbone(CROPS, length=2).values()
    assert backbone.layers == {f"visual/transformers_{name}.hidden_states.3": 64}
    expected = torch.cat([frames[:, :, -16:].mean(dim=2), frames[:, :, 0]], dim=-1).unflatten(1, (2, 2)).mean(dim=2)
    assert relative_error(found, expected) < 1e-4


@pytest.mark.parametrize("name", ["siglip", "videomae", "wavlm"])
def test_without_a_class_token_none_can_be_kept(name: str, tiny: Path) -> None:
    with pytest.raises(BackboneError, match="has no class token: leave token out of its pool"):
        make(f"./{name}", pool=["token", "max"])


@every
def test_time_runs_forward_and_space_is_not_mixed_into_it(name: str, tiny: Path) -> None:
    """The embeddings see what is near: a click late in the sound, a flash in a late picture, moves the end alone."""
    backbone = make(f"./{name}", layers=(0,))
    window = windows_for(backbone)[:1].clone()
    late = window.clone()
    if backbone.input == "waveform":
        late[:, 6000:6010] = 20000
    else:
        late[:, 3] = 255 - late[:, 3]
    (before,), (after,) = backbone.maps(window), backbone.maps(late)
    moved = (before - after).abs().amax(dim=[0, 1, *range(3, before.ndim)])
    steps = len(moved)
    assert moved.argmax() >= 0.7 * (steps - 1)
    assert moved[: steps // 2].max() < 0.5 * moved.max()
    assert (moved[: steps // 2] == 0).all() or name in HEARING


@every
def test_cut_networks_give_the_same_layers(name: str, tiny: Path) -> None:
    backbone, cut = make(f"./{name}"), make(f"./{name}", layers=(0, 2))
    assert len(cut.net.state_dict()) < len(backbone.net.state_dict())
    windows = windows_for(backbone)
    whole = backbone(windows, length=4)
    assert all(torch.equal(found, whole[layer]) for layer, found in cut(windows, length=4).items())


def test_wherever_it_lies_it_is_the_same(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    relative = by_max(name="transformers:./vit", layers=4)
    whole = resolved(relative)
    assert whole.name == f"transformers:{own}"
    assert layer_prefix(whole.name) == "transformers_vit"
    monkeypatch.chdir("/")
    found = load_backbone.__wrapped__("visual", whole, "cpu")
    moved = Path(shutil.move(own, own.parent / "elsewhere" / "vit"))
    assert make(str(moved)).identity() == found.identity()


def test_identity_follows_config_tensors_and_feeding(own: Path) -> None:
    name = str(own)
    first = make(name).identity()
    change(own / "config.json", transformers_version="1.0", id2label={"0": "cat"}, attn_implementation="eager")
    assert make(name).identity() == first
    change(own / "config.json", layer_norm_eps=1e-3)
    second = make(name).identity()
    change(own / "preprocessor_config.json", image_std=[0.1, 0.2, 0.3])
    third = make(name).identity()
    assert {key for key in first if first[key] != second[key]} == {"config_sha256"}
    assert {key for key in first if second[key] != third[key]} == {"transform"}


def test_older_names_of_tensors_are_known(tiny: Path, tmp_path: Path) -> None:
    """As most published files have them."""
    for name, old in (
        (
            "wav2vec2",
            {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"},
        ),
        ("vit", {"layers.": "encoder.layer."}),
    ):
        folder = Path(shutil.copytree(tiny / name, tmp_path / name))
        state = {f"{name}.{key}": x for key, x in safetensors.torch.load_file(folder / "model.safetensors").items()}
        for new, published in old.items():
            state = {key.replace(new, published): x for key, x in state.items()}
        safetensors.torch.save_file(state, folder / "model.safetensors")
        assert make(str(folder)).identity() == make(f"./{name}").identity()


def test_in_parts_and_in_another_file(own: Path) -> None:
    first = make(str(own)).identity()
    state = safetensors.torch.load_file(own / "model.safetensors")
    (own / "model.safetensors").rename(own.parent / "w.safetensors")
    assert make(str(own), weights=f"file:{own.parent / 'w.safetensors'}").identity() == first
    for i in range(2):
        half = dict(list(state.items())[i::2])
        safetensors.torch.save_file(half, own / f"model-0000{i + 1}-of-00002.safetensors")
    assert make(str(own)).identity() == first
    (own / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(BackboneError, match=r"has no whole model\.safetensors"):
        make(str(own))


@pytest.mark.parametrize("name", ["dinov3_vit", "facebook/dinov3-vits16-pretrain-lvd1689m"])
def test_a_type_or_a_known_name_with_random_weights(name: str) -> None:
    backbone = make(name, weights="seed:0", layers=(0, 1))
    assert list(backbone.layers.values()) == [384, 384]
    assert all(x.isfinite().all() for x in backbone(CROPS[:, :1], length=1).values())


@pytest.mark.parametrize("name", PUBLISHED)
def test_known_names_have_a_config(name: str) -> None:
    """It is one of the library's, without a network being made."""
    import transformers

    kind, config, _ = PUBLISHED[name]
    made = getattr(transformers, f"{KINDS[kind].classes}Config")(**config)
    assert made.hidden_size % made.num_attention_heads == 0
    assert set(config) <= set(made.to_dict())


def test_sound_longer_than_whisper_hears(tiny: Path) -> None:
    with pytest.raises(BackboneError, match="hears 1 s at most, the windows have 2"):
        make("./whisper")(torch.zeros(1, 32000, dtype=torch.int16), length=2)


class Hub:
    """In place of the download: remembers what it was asked for."""

    def __init__(self, folder: Path, *, here: bool) -> None:
        self.folder, self.here = folder, here
        self.asked: list[dict[str, Any]] = []

    def __call__(self, repo_id: str, *, local_files_only: bool = False, **asked: Any) -> str:
        if local_files_only and not self.here:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        self.asked.append({"repo_id": repo_id, "local": local_files_only, **asked})
        return str(self.folder)


def test_from_the_hub_once_with_its_licence(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "README.md").write_text("---\nlicense: mit\n---\nA card.\n")
    hub = Hub(own, here=False)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    backbone = make("us/vit-tiny@0123abc", weights="hub")
    assert next(iter(backbone.layers)) == "visual/transformers_us_vit-tiny.hidden_states.0"
    assert "us/vit-tiny@0123abc: revision vit, licence: mit" in capsys.readouterr().err
    (asked,) = hub.asked
    assert (asked["repo_id"], asked["revision"], asked["local"]) == ("us/vit-tiny", "0123abc", False)
    assert not [name for name in asked["allow_patterns"] if name.endswith(("*", ".bin", ".py", ".pt"))]
    hub.here = True
    again = make("us/vit-tiny", weights="hub")
    assert [found["local"] for found in hub.asked] == [False, True]
    assert again.identity() == backbone.identity()
    assert make("us/vit-tiny", weights="seed:3").layers == again.layers  # its config is here


def test_without_network_it_says_what_can_be_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(tmp_path, here=False)

    def offline(repo_id: str, *, local_files_only: bool = False, **_: Any) -> str:
        if local_files_only:
            return hub(repo_id, local_files_only=True)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(BackboneError, match=r"cannot be downloaded: no network; without network name a folder"):
        make("us/vit-tiny", weights="hub")
    with pytest.raises(BackboneError, match=r"config.json is not here.* one of microsoft/wavlm-base-plus"):
        make("us/vit-tiny", weights="seed:0")


@pytest.mark.parametrize(
    ("file", "more", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Net"}}, "has auto_map: what needs further code is not run"),
        ("config.json", {"model_type": "bert"}, "describes a bert; possible are wav2vec2"),
        ("config.json", {"quantization_config": {"bits": 4}}, "has quantization_config"),
        ("config.json", {"hidden_size": 10**9}, "hidden_size: 1000000000, more than 4194304"),
        ("config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers: 1000000, more than 512"),
        ("config.json", {"hidden_size": 2**20, "num_hidden_layers": 200}, r"has \d+ parameters, which do not fit"),
        ("config.json", {"image_size": 10**5}, "image_size: 100000, more than 4096"),
        ("config.json", {"image_size": 4096, "patch_size": 1}, "it has 16777216 positions, more than"),
        ("config.json", {"image_size": 64}, "they lack embeddings.position_embeddings, or have another size of it"),
        ("config.json", {"sizes": [1] * 1000}, "sizes: 1000, more than 512"),
        ("config.json", {"patch_size": 0}, "transformers cannot read its config"),
        ("config.json", {"hidden_size": "many"}, "transformers cannot read its config"),
        ("config.json", {"hidden_size": 64}, "weights of .* they lack .*another size .*another network"),
        ("config.json", {"num_hidden_layers": 4}, "weights of .* they lack layers.3.* belong to another network"),
        ("preprocessor_config.json", {"auto_map": {"AutoImageProcessor": "evil.P"}}, "has auto_map"),
        ("preprocessor_config.json", {"crop_size": 24}, "positions for 32 px, and is fed 24"),
        ("preprocessor_config.json", {"size": {"height": 32, "width": 40}}, "possible is a square"),
        ("preprocessor_config.json", {"do_normalize": False}, "is fed do_normalize False; possible is True"),
        ("preprocessor_config.json", {"resample": 1}, "resample 1; possible are 2 and 3"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "rescale_factor"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "image_mean"),
    ],
)
def test_what_a_folder_says_is_not_trusted(file: str, more: dict[str, Any], message: str, own: Path) -> None:
    change(own / file, **more)
    with pytest.raises(BackboneError, match=message):
        make(str(own))


@pytest.mark.parametrize(
    ("name", "more", "message"),
    [
        ("wavlm", {"sampling_rate": 48000}, "is fed sampling_rate 48000; possible is 16000"),
        ("whisper", {"hop_length": 80}, "is fed hop_length 80; possible is 160"),
        ("whisper", {"feature_size": 128}, "is fed feature_size 128; possible is 80"),
    ],
)
def test_sound_must_be_what_it_was_trained_on(
    name: str, more: dict[str, Any], message: str, tiny: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny / name, tmp_path / name))
    change(folder / "preprocessor_config.json", **more)
    with pytest.raises(BackboneError, match=message):
        make(str(folder))


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("import pathlib; pathlib.Path('pwned').touch()",))


def test_pickles_are_not_read(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)
    (own / "model.safetensors").unlink()
    torch.save({"a": Evil()}, own / "pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"pytorch_model\.bin is not read, as it can have code in it: convert"):
        make(str(own))
    (own / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../secret.safetensors"}}))
    with pytest.raises(BackboneError, match=r"no whole model\.safetensors"):
        make(str(own))
    assert not (own / "pwned").exists()


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("us/../../etc", "hub", "a name is transformers:OWNER/MODEL"),
        ("us/model@a/../../x", "hub", "a name is transformers:OWNER/MODEL"),
        ("no_such_type", "seed:0", r"with weights: seed:N one of wav2vec2, wavlm"),
        ("us/model", "bundled", "no bundled weights; use hub or seed:N, or name a folder"),
        ("./vit", "hub", "is a folder: set weights: bundled"),
        ("./nothing", "bundled", r"nothing/config\.json.*No such file"),
        ("./wavlm", "bundled", "hears: it is for features.audio"),
    ],
)
def test_names_that_are_none(name: str, weights: str, message: str, tiny: Path) -> None:
    with pytest.raises(BackboneError, match=message):
        make(name, modality="visual", weights=weights)


def test_what_it_is_fed_must_be_said(own: Path) -> None:
    (own / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
    with pytest.raises(BackboneError, match=r"preprocessor_config\.json does not say its image_mean"):
        make(str(own))
    (own / "preprocessor_config.json").unlink()
    with pytest.raises(BackboneError, match=r"lacks preprocessor_config\.json.*copy it beside config\.json"):
        make(str(own))
    newer = {"image_processor": PICTURE}
    (own / "processor_config.json").write_text(json.dumps(newer))
    assert make(str(own)).identity() == make("./vit").identity()


def test_without_the_package_it_says_what_to_install(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BackboneError, match=r"needs a package .*: pip install transformers"):
        make("./vit")


def test_two_revisions_are_one_name() -> None:
    assert layer_prefix("transformers:us/vit@abc") == layer_prefix("transformers:us/vit")
    assert BackboneParams(name="transformers:us/vit@abc").name.endswith("@abc")
