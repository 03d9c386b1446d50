"""Networks of the library transformers (an extra): `transformers:OWNER/MODEL` of the hub, or `transformers:./FOLDER`.

Their layers are the hidden states: what goes into the first block, and what comes out of each, not normalised.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
import torchvision.transforms.v2.functional as pictures
from jaxtyping import Float, Float32, Int16, UInt8
from torch import Tensor

from pipeline.backbones.base import Backbone, choose_stages, scaling
from pipeline.backbones.log_mel import log_mel
from pipeline.backbones.transformers_sources import Source, find_source, read_tensors
from pipeline.backbones.weights import read_file, seeded
from pipeline.backbones.words import BackboneError, Input, Modality
from pipeline.compute.machine import free_bytes
from pipeline.params import BackboneParams, ComputeParams, layer_prefix

VERSION = 1  # raise it when the same parameters and weights give other maps
_UNREAD = ("pooler.", "head.", "masked_spec_embed", "mask_token", "embeddings.mask_token", "predictor.", "adapter.")
"""Tensors that no hidden state depends on: a checkpoint may lack them."""
_LARGEST_SIZE, _LARGEST_PX, _MOST_POSITIONS = 2**22, 2**12, 2**18
_MOST = {"layers": 512, "image_size": _LARGEST_PX, "crop_size": _LARGEST_PX, "num_frames": 2**10}
"""{how a config's entry ends: the largest number it may be}, where it is not _LARGEST_SIZE."""


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """The network up to its deepest chosen block; nothing but `weights: hub` asks the network."""
    source = find_source(params)
    hears = source.kind.input == "waveform"
    if hears != (modality == "audio"):
        what = "hears: it is for features.audio only" if hears else "sees: it is for features.visual only"
        raise BackboneError(f"backbone {params.name} {what}")
    net, config = _network(params, source)
    family = Speech if source.kind.classes != "Whisper" else Whisper
    return family(modality, params, net, config, source) if hears else Pictures(modality, params, net, config, source)


def described(params: BackboneParams) -> tuple[Input, dict[str, int]]:
    """(what it reads, {stage: channels} of all that it has), from its config: no network is made."""
    source = find_source(params)
    _, config = _config(params, source)
    return source.kind.input, {_stage(i): int(config.hidden_size) for i in range(config.num_hidden_layers + 1)}


def _stage(number: int) -> str:
    return f"hidden_states.{number}"


def _config(params: BackboneParams, source: Source) -> tuple[Any, Any]:
    """(the library, the network's config); raises BackboneError where one is not to be had."""
    try:
        library: Any = importlib.import_module("transformers")
    except ImportError as error:
        raise BackboneError(f"backbone {params.name} needs a package ({error}): pip install transformers") from error
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    _refuse_huge(params, source.config)
    without = {"decoder_layers": 0} if source.kind.classes == "Whisper" else {}
    try:
        config = getattr(library, f"{source.kind.classes}Config")(**{**source.config, **without})
        _refuse_many_positions(config)
    except Exception as error:  # of whatever a config of others says
        raise BackboneError(f"backbone {params.name}: transformers cannot read its config: {error}") from error
    return library, config


def _network(params: BackboneParams, source: Source) -> tuple[Any, Any]:
    """(network, its config) with the weights that `params` name."""
    library, config = _config(params, source)
    model = getattr(library, f"{source.kind.classes}Model")
    try:
        with seeded(params), torch.device("meta"):  # that, too, draws numbers
            size = sum(tensor.numel() for tensor in model(config).parameters())
        free = free_bytes(ComputeParams(device="cpu"))
        if 4 * size > free:
            raise ValueError(f"it has {size} parameters, which do not fit into the {free} bytes that are free")
        net = _loaded(params, source, model, config)
    except BackboneError:
        raise
    except Exception as error:  # of whatever a config or a file of others says
        raise BackboneError(f"backbone {params.name}: transformers cannot build it: {error}") from error
    return (net.encoder if source.kind.encoder else net), config


def _loaded(params: BackboneParams, source: Source, model: Any, config: Any) -> Any:
    weights, _, value = params.weights.partition(":")
    with seeded(params):
        if weights == "seed":
            return model(config)
        tensors = read_file(Path(value)) if weights == "file" else read_tensors(params, source.folder or Path())
        # It knows what published files call the same tensors; given a path, it would read what lies beside them, too.
        net, told = model.from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
    lacking = [*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])]
    missing = sorted(name for name in lacking if not name.startswith(_UNREAD))
    if missing or told["error_msgs"]:
        raise BackboneError(
            f"weights of backbone {params.name}: they lack {missing[0] if missing else told['error_msgs']}, or have "
            f"another size of it ({len(missing)} such): they belong to another network"
        )
    return net


def _refuse_huge(params: BackboneParams, value: Any, key: str = "") -> None:
    """Raises BackboneError for sizes that no network has, before anything is made of them."""
    most = next((most for end, most in _MOST.items() if key.endswith(end)), _LARGEST_SIZE)
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_huge(params, inner, name)
        return
    if isinstance(value, list):
        for inner in value:
            _refuse_huge(params, inner, key)
        most, value = _MOST["layers"], len(value)
    if isinstance(value, int) and abs(value) > most:
        raise BackboneError(f"backbone {params.name}: its config has {key}: {value}, more than {most}")


def _refuse_many_positions(config: Any) -> None:
    """Raises ValueError where a table of them would take hours to fill."""
    side, patch = getattr(config, "image_size", 0), getattr(config, "patch_size", 1)
    positions = (side // patch) ** 2 * getattr(config, "num_frames", 1)
    if positions > _MOST_POSITIONS:
        raise ValueError(f"it has {positions} positions, more than {_MOST_POSITIONS}")


class _Taps(torch.nn.Module):
    """A network that gives its hidden states, and has no block behind the deepest that is chosen."""

    def __init__(self, net: Any, chosen: Sequence[int], blocks: Any) -> None:
        super().__init__()
        del blocks[max(chosen[-1], 1) :]
        self.net = net
        self._chosen = chosen
        self._found: dict[int, Tensor] = {}
        blocks[0].register_forward_pre_hook(self._first, with_kwargs=True)
        for i, block in enumerate(blocks):
            block.register_forward_hook(self._after(i + 1))

    def _first(self, _block: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        self._found[0] = given[0] if given else named["hidden_states"]

    def _after(self, number: int) -> Any:
        def saw(_block: Any, _given: Any, made: Any) -> None:
            self._found[number] = made[0] if isinstance(made, tuple) else made

        return saw

    def forward(self, x: Float[Tensor, "N ..."]) -> list[Float[Tensor, "N tokens C"]]:
        """[(N, tokens, C)], those chosen."""
        self._found.clear()
        self.net(x)
        return [self._found[i] for i in self._chosen]

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's own names: the identity must not depend on this wrapper."""
        return self.net.state_dict(*args, **kwargs)


class _Transformer(Backbone):
    """What all of them are."""

    def __init__(
        self, modality: Modality, params: BackboneParams, net: Any, config: Any, source: Source, **more: Any
    ) -> None:
        blocks = _blocks(params, net, config.num_hidden_layers)
        chosen = choose_stages(params, len(blocks) + 1)
        super().__init__(
            modality,
            params,
            _Taps(net, chosen, blocks),
            input=source.kind.input,
            stages=[(_stage(i), int(config.hidden_size)) for i in chosen],
            version=VERSION,
            **more,
        )
        said = json.dumps([source.kind.classes, source.config], sort_keys=True)
        self._identity |= {"name": layer_prefix(self.name), "config_sha256": hashlib.sha256(said.encode()).hexdigest()}


def _blocks(params: BackboneParams, net: Any, number: int) -> Any:
    """The list of blocks, under whatever name the architecture has it."""
    for name, module in net.named_modules():
        if name.rpartition(".")[2] in ("layer", "layers") and len(module) == number > 0:
            return module
    raise BackboneError(f"backbone {params.name}: this version of transformers keeps its blocks elsewhere")


def _only(params: BackboneParams, fed: Any, **wanted: Any) -> None:
    """Raises BackboneError where the input would have to be made in another way."""
    for key, value in wanted.items():
        if fed.get(key, value) != value:
            raise BackboneError(f"backbone {params.name} is fed {key} {fed[key]}; possible is {value}")


class Speech(_Transformer):
    """Blocks over 20 ms steps of the waveform, (B, T, C)."""

    def __init__(self, modality: Modality, params: BackboneParams, net: Any, config: Any, source: Source) -> None:
        """Raises BackboneError for a network of another rate."""
        _only(params, source.fed, sampling_rate=16000)
        self._normalise = bool(source.fed.get("do_normalize", True))
        words = "int16 / 32768" + (", minus the window's mean, over its standard deviation" if self._normalise else "")
        super().__init__(modality, params, net, config, source, transform=words)

    def transform(self, windows: Int16[Tensor, "B samples"]) -> Float32[Tensor, "B samples"]:
        """(B, samples) float32."""
        x = windows.float() / 32768
        return torch.nn.functional.layer_norm(x, x.shape[1:], eps=1e-7) if self._normalise else x

    def maps(self, windows: Int16[Tensor, "B samples"]) -> Sequence[Float[Tensor, "B _ _"]]:
        """(B, C, T) of each layer."""
        return [x.mT for x in self.net(self.transform(windows).to(self.dtype))]


class Whisper(_Transformer):
    """The encoder's blocks over 20 ms steps, (B, T, C); it hears 30 s, what follows the window being silence."""

    def __init__(self, modality: Modality, params: BackboneParams, net: Any, config: Any, source: Source) -> None:
        """Raises BackboneError where its spectrogram is another than Whisper's."""
        _only(params, source.fed, sampling_rate=16000, n_fft=400, hop_length=160, do_normalize=False, dither=0.0)
        self._samples = 320 * int(config.max_source_positions)
        self._bands = int(config.num_mel_bins)
        _only(params, source.fed, feature_size=self._bands)
        words = f"int16 / 32768, zeros behind it to {self._samples} samples, Whisper's log-mel"
        super().__init__(modality, params, net, config, source, transform=words)

    def transform(self, windows: Int16[Tensor, "B samples"]) -> Float32[Tensor, "B bands hops"]:
        """(B, bands, hops) float32; raises BackboneError for longer windows than it has positions for."""
        silence = self._samples - windows.shape[1]
        if silence < 0:
            raise BackboneError(
                f"backbone {self.name} hears {self._samples / 16000:g} s at most, the windows have "
                f"{windows.shape[1] / 16000:g}"
            )
        return log_mel(torch.nn.functional.pad(windows.float() / 32768, (0, silence)), bands=self._bands)

    def maps(self, windows: Int16[Tensor, "B samples"]) -> Sequence[Float[Tensor, "B _ _"]]:
        """(B, C, T) of each layer, without the steps of the silence."""
        steps = -(-windows.shape[1] // 320)
        return [x[:, :steps].mT for x in self.net(self.transform(windows).to(self.dtype))]


class Pictures(_Transformer):
    """Blocks over patches, (B, C, T, H, W): of each frame by itself, or of clips, in which some frames are one step."""

    def __init__(self, modality: Modality, params: BackboneParams, net: Any, config: Any, source: Source) -> None:
        """Raises BackboneError where pictures would have to be made in another way, or have another size than its."""
        fed, kind = source.fed, source.kind.classes
        _only(params, fed, do_resize=True, do_rescale=True, do_normalize=True)
        if fed.get("resample") not in _INTERPOLATIONS:
            raise BackboneError(f"backbone {params.name} is fed resample {fed.get('resample')}; possible are 2 and 3")
        if abs(255 * fed.get("rescale_factor", 1 / 255) - 1) > 1e-2:
            raise BackboneError(
                f"backbone {params.name} is fed rescale_factor {fed['rescale_factor']}; possible is 1/255"
            )
        self._resized = _side(params, fed["size"])
        self._px = _side(params, fed["crop_size"]) if fed.get("do_center_crop", "crop_size" in fed) else self._resized
        self._by = _INTERPOLATIONS[fed["resample"]]
        self._scale = torch.tensor([fed["image_mean"], fed["image_std"]]).view(2, 3, 1, 1)
        own = config.crop_size if kind == "VJEPA2" else config.image_size
        if own != self._px and kind not in _ANY_SIZE:
            raise BackboneError(f"backbone {params.name} has positions for {own} px, and is fed {self._px}")
        self._grid = self._px // int(config.patch_size)
        self._together = int(config.tubelet_size) if kind in ("VideoMAE", "VJEPA2") else 0
        self._frames = int(config.num_frames) if kind == "VideoMAE" else 0
        self._before = 1 + getattr(config, "num_register_tokens", 0) if kind in _TOKENED else 0
        words = [f"{self._resized} px, {self._by.value}; the middle {self._px} px", scaling(*self._scale.flatten(1))]
        if self._together:
            words.append(f"{self._frames or 'all'} frames")
        super().__init__(modality, params, net, config, source, transform="; ".join(words), token=self._before > 0)

    def to(self, device: str) -> Self:
        """As ImageBackbone's."""
        self._scale = self._scale.to(device)
        return super().to(device)

    def transform(self, windows: UInt8[Tensor, "B T S S 3"]) -> Float32[Tensor, "B _ 3 P P"]:
        """(B, T, 3, P, P) float32; of clips as many frames as it takes, some twice or left out."""
        steps = windows.shape[1]
        if self._together:
            wanted = self._frames or -(-steps // self._together) * self._together
            windows = windows[:, torch.arange(wanted, device=windows.device) * steps // wanted]
        x = windows.flatten(0, 1).permute(0, 3, 1, 2)
        x = pictures.resize(x, [self._resized, self._resized], interpolation=self._by, antialias=True)
        x = (pictures.center_crop(x, [self._px, self._px]).float() / 255 - self._scale[0]) / self._scale[1]
        return torch.unflatten(x, 0, windows.shape[:2])

    def maps(self, windows: UInt8[Tensor, "B T S S 3"]) -> Sequence[Float[Tensor, "B _ _ ..."]]:
        """(B, C, T, H, W) of each layer; behind them, with `pool: token`, (B, C, T), the class tokens."""
        x = self.transform(windows).to(self.dtype)
        grid = (self._grid, self._grid)
        if self._together:
            steps = x.shape[1] // self._together
            return [found.unflatten(1, (steps, *grid)).permute(0, 4, 1, 2, 3) for found in self.net(x)]
        frames = [found.unflatten(0, x.shape[:2]) for found in self.net(x.flatten(0, 1))]
        maps = [found[:, :, self._before :].unflatten(2, grid).permute(0, 4, 1, 2, 3) for found in frames]
        return maps + [found[:, :, 0].mT for found in frames] * ("token" in self.pool)


_INTERPOLATIONS = {2: pictures.InterpolationMode.BILINEAR, 3: pictures.InterpolationMode.BICUBIC}
"""By Pillow's numbers."""
_TOKENED = ("CLIPVision", "ViT", "Dinov2", "Dinov2WithRegisters", "DINOv3ViT")
_ANY_SIZE = ("Dinov2", "Dinov2WithRegisters", "DINOv3ViT")


def _side(params: BackboneParams, size: Any) -> int:
    """Pixels of a square, however a preprocessor's config says it."""
    sides = set(size.values()) if isinstance(size, dict) else {size}
    if len(sides) != 1 or not isinstance(side := sides.pop(), int) or not 0 < side <= _LARGEST_PX:
        raise BackboneError(f"backbone {params.name} is fed pictures of {size}; possible is a square")
    return side
