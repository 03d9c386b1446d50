"""What a network of transformers is made from: its config, what it is fed, its tensors.

They come from a folder, from the hub, or are written here. All is read as data: no code that lies beside them is run.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub

from pipeline.backbones.weights import State, read_file
from pipeline.backbones.words import BackboneError, Input
from pipeline.params import BackboneParams, transformers_folder

Json = Mapping[str, Any]
_FILES = ["config.json", "*processor_config.json", "model.safetensors", "model-*-of-*.safetensors", "README.md"]
_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w-][\w./-]*)?")


@dataclass(frozen=True)
class Kind:
    """One architecture: `model_type` in a config.json."""

    classes: str
    """transformers' class of the network without Model, and of its config without Config."""
    input: Input
    fed: Json
    """What its preprocessor_config.json would say."""
    described: str = ""
    """Where the config of the network that is wanted stands, of a model of several."""
    encoder: bool = False
    """Whether only that part is wanted."""


_IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_OF_CLIP = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
_SPEECH = {"do_normalize": True, "sampling_rate": 16000}
_WHISPER = {"feature_size": 80, "sampling_rate": 16000}
_DINO = _IMAGENET | {"size": 256, "crop_size": 224, "resample": 3}
KINDS: Mapping[str, Kind] = {
    "wav2vec2": Kind("Wav2Vec2", "waveform", _SPEECH),
    "wavlm": Kind("WavLM", "waveform", _SPEECH),
    "hubert": Kind("Hubert", "waveform", _SPEECH),
    "whisper": Kind("Whisper", "waveform", _WHISPER, encoder=True),
    "clip": Kind("CLIPVision", "crops", _OF_CLIP | {"size": 224, "crop_size": 224, "resample": 3}, "vision_config"),
    "siglip": Kind("SiglipVision", "crops", _HALF | {"size": 224, "resample": 3}, "vision_config"),
    "vit": Kind("ViT", "crops", _HALF | {"size": 224, "resample": 2}),
    "dinov2": Kind("Dinov2", "crops", _DINO),
    "dinov2_with_registers": Kind("Dinov2WithRegisters", "crops", _DINO),
    "dinov3_vit": Kind("DINOv3ViT", "crops", _IMAGENET | {"size": 224, "resample": 2}),
    "videomae": Kind("VideoMAE", "crops", _IMAGENET | {"size": 224, "crop_size": 224, "resample": 2}),
    "vjepa2": Kind("VJEPA2", "crops", _IMAGENET | {"size": 292, "crop_size": 256, "resample": 2}, encoder=True),
}
PUBLISHED: Mapping[str, tuple[str, Json, Json]] = {
    "microsoft/wavlm-base-plus": ("wavlm", {}, {"do_normalize": False}),
    "facebook/wav2vec2-xls-r-300m": (
        "wav2vec2",
        {
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "conv_bias": True,
            "do_stable_layer_norm": True,
            "feat_extract_norm": "layer",
        },
        {},
    ),
    "openai/whisper-tiny": ("whisper", {}, {}),
    "openai/whisper-base": (
        "whisper",
        {"d_model": 512, "encoder_layers": 6, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048},
        {},
    ),
    "openai/clip-vit-base-patch32": ("clip", {}, {}),
    "google/siglip-base-patch16-224": ("siglip", {}, {}),
    "facebook/dinov2-small": ("dinov2", {"hidden_size": 384, "num_attention_heads": 6, "image_size": 518}, {}),
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("dinov3_vit", {"num_register_tokens": 4}, {}),
    "MCG-NJU/videomae-base": ("videomae", {}, {}),
    "facebook/vjepa2-vitl-fpc64-256": ("vjepa2", {}, {}),
}
"""{name on the hub: type, config and feeding where they differ from the type's}: for random weights without network."""


@dataclass(frozen=True)
class Source:
    """What was found for one name."""

    kind: Kind
    config: Json
    """Of the network that is wanted; what says nothing about what it computes is left out."""
    fed: Json
    folder: Path | None
    """Where its tensors are; None: nowhere."""


def find_source(params: BackboneParams) -> Source:
    """Only `weights: hub` asks the network. Raises BackboneError where there is nothing, or what would be run."""
    rest, weights = params.name.partition(":")[2], params.weights.partition(":")[0]
    folder = transformers_folder(params.name)
    if folder is not None:
        if weights == "hub":
            raise BackboneError(f"backbone {params.name} is a folder: set weights: bundled (those in it) or seed:N")
        return _of_folder(params, Path(folder))
    if weights == "seed" and (rest in KINDS or rest in PUBLISHED):
        kind, config, fed = PUBLISHED.get(rest, (rest, {}, {}))
        return Source(KINDS[kind], config, {**KINDS[kind].fed, **fed}, None)
    if not _REPOSITORY.fullmatch(rest) or ".." in rest:
        raise BackboneError(
            f"backbone {params.name}: a name is transformers:OWNER/MODEL or OWNER/MODEL@REVISION as on the hub, "
            f"transformers:./FOLDER, or with weights: seed:N one of {', '.join(KINDS)}"
        )
    if weights == "bundled":
        raise BackboneError(f"backbone {params.name} has no bundled weights; use hub or seed:N, or name a folder")
    return _of_folder(params, _of_hub(params, rest, here=weights != "hub"))


def read_tensors(params: BackboneParams, folder: Path) -> State:
    """Those in the folder's safetensors; raises BackboneError where there are none."""
    files = _safetensors(folder)
    if not files:
        pickled = [path.name for path in (*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth"))]
        raise BackboneError(
            f"backbone {params.name}: {folder} has no whole model.safetensors"
            + (f"; {pickled[0]} is not read, as it can have code in it" if pickled else "")
            + ": convert it (save_pretrained), or name a revision that has one (OWNER/MODEL@refs/pr/N)"
        )
    return {name: tensor for file in files for name, tensor in read_file(file).items()}


def _safetensors(folder: Path) -> list[Path]:
    """The files of one network, none where one is missing; an index is not looked at: it could name any file."""
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    parts = sorted(folder.glob("model-*-of-*.safetensors"))
    return parts if parts and len(parts) == int(parts[0].stem.rpartition("-")[2]) else []


def _of_folder(params: BackboneParams, folder: Path) -> Source:
    raw = _json(params, folder / "config.json")
    kind = KINDS.get(str(raw.get("model_type")).removesuffix("_vision_model"))
    if kind is None:
        raise BackboneError(
            f"backbone {params.name}: {folder / 'config.json'} describes a {raw.get('model_type')}; possible are "
            f"{', '.join(KINDS)}"
        )
    config = raw.get(kind.described, raw)
    names = ("video_preprocessor_config.json", "preprocessor_config.json", "processor_config.json")
    there = [folder / name for name in names if (folder / name).exists()]
    if not there:
        raise BackboneError(
            f"backbone {params.name}: {folder} lacks {names[1]}, which says what it is fed: copy it beside config.json"
        )
    fed = _json(params, there[0])
    for part in ("video_processor", "image_processor", "feature_extractor"):
        fed = fed.get(part, fed)
    for key in ("image_mean", "image_std"):
        if key in kind.fed and (not isinstance(fed.get(key), list) or len(fed[key]) != 3):
            raise BackboneError(f"backbone {params.name}: {there[0]} does not say its {key}: three numbers")
    for place in (raw, config, fed):
        for key in ("auto_map", "quantization_config", "custom_pipelines"):
            if place.get(key):
                raise BackboneError(f"backbone {params.name}: {folder} has {key}: what needs further code is not run")
    return Source(
        kind, {key: value for key, value in config.items() if not _says_nothing(key)}, {**kind.fed, **fed}, folder
    )


def _says_nothing(key: str) -> bool:
    """Of what the network computes; or, as attention kernels from the hub, should not."""
    return key.startswith(("_", "output_", "id2label", "label2id")) or key in {
        "architectures", "attn_implementation", "dtype", "experts_implementation", "return_dict", "torch_dtype",
        "transformers_version", "use_cache",
    }  # fmt: skip


def _json(params: BackboneParams, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BackboneError(f"backbone {params.name}: {path}: {error}") from None
    if not isinstance(found, dict):
        raise BackboneError(f"backbone {params.name}: {path} is no table")
    return found


def _of_hub(params: BackboneParams, name: str, *, here: bool) -> Path:
    """Where the repository lies; what was downloaded before is not looked up again. here: only such will do."""
    repository, _, revision = name.partition("@")
    asked: dict[str, Any] = {"revision": revision or None, "allow_patterns": _FILES}
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, local_files_only=True, **asked))
        if (folder / "config.json").exists() and (here or _safetensors(folder)):
            return folder
    except huggingface_hub.errors.LocalEntryNotFoundError:
        pass
    if here:
        raise BackboneError(
            f"backbone {params.name}: its config.json is not here: weights: hub downloads it; without network name a "
            f"folder that has it, or with weights: seed:N one of {', '.join(PUBLISHED)}"
        )
    try:
        folder = Path(huggingface_hub.snapshot_download(repository, **asked))
    except Exception as error:
        raise BackboneError(
            f"backbone {params.name}: it cannot be downloaded: {error}; without network name a folder "
            "(transformers:./FOLDER)"
        ) from error
    print(f"backbone {params.name}: revision {folder.name}, licence: {_licence(folder)}", file=sys.stderr)
    return folder


def _licence(folder: Path) -> str:
    try:
        card = huggingface_hub.ModelCard.load(folder / "README.md").data
    except Exception:  # of a card that is none
        return "not said"
    return str(card.get("license_name") or card.get("license") or "not said")
