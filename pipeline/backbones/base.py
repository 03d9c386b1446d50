"""What every backbone is: windows of one kind in, {layer: (B, L, C_in)} out, and an identity."""

from __future__ import annotations

import hashlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbones.fusing import FOLDING_VERSION, fuse_conv_bn, largest_error
from pipeline.backbones.onnx_runtime import OnnxNet
from pipeline.backbones.words import BackboneError, Input, Modality
from pipeline.params import BackboneParams, Pooling, layer_prefix

_WINDOWS: dict[Input, tuple[torch.dtype, str, int]] = {
    "crops": (torch.uint8, "(B, T, S, S, 3)", 5),
    "spectrogram": (torch.float32, "(B, bands, hops)", 3),
    "waveform": (torch.int16, "(B, samples)", 2),
}


_GIVING = threading.Lock()
WAVEFORM_HZ = 16000
POOLING_VERSION = 1  # raise it when `pool` gives other values
_ONLY_MAX = "maximum over space, adaptive maximum over time"  # as caches from before there were others say it


class NoSuchStageError(BackboneError):
    """`layers` asks for stages that the network has not."""

    def __init__(self, name: str, wanted: object, stages: int) -> None:
        """stages: how many it has."""
        super().__init__(
            f"backbone {name}: layers = {wanted} is not possible: it has {stages} stages (0 to {stages - 1})"
        )
        self.stages = stages


class Backbone(ABC):
    """One frozen network. Always in evaluation mode, never trained; a window's features depend on no other window.

    One's own: a subclass that calls this constructor and has `maps`; `name: module:attribute` then names it.
    """

    runtimes: ClassVar[tuple[str, ...]] = ("torch",)
    source_sha256 = ""
    """Of the file that a backbone of one's own comes from."""

    def __init__(
        self,
        modality: Modality,
        params: BackboneParams,
        net: torch.nn.Module,
        *,
        input: Input,
        stages: Sequence[tuple[str, int]],
        transform: str,
        example: torch.Tensor | None = None,
        version: int = 1,
        token: bool = False,
    ) -> None:
        """Freezes `net`.

        stages: (name, C_in) of the layers that `maps` gives, shallow to deep. transform: what is done to a window
        before the network sees it, in words; part of the identity. example: a small input of `net`; where it is given,
        batch norms are folded into the convolutions before them. version: of the code that makes the maps; part of the
        identity. token: whether it has a class token.
        """
        if "token" in params.pool and not token:
            raise BackboneError(f"backbone {params.name} has no class token: leave token out of its pool")
        if params.runtime not in self.runtimes:
            raise BackboneError(
                f"backbone {params.name}: runtime: {params.runtime} is for two-dimensional networks; set runtime: torch"
            )
        self.name = params.name
        self.modality = modality
        self.runtime = params.runtime
        self.input = input
        self.pool = params.pool
        self.layers = {
            f"{modality}/{layer_prefix(params.name)}.{stage}": len(params.pool) * channels for stage, channels in stages
        }
        """{layer: C_in}, shallow to deep."""
        net.eval().requires_grad_(False)
        self._identity: dict[str, Any] = {
            "name": params.name,
            "weights_sha256": weights_sha256(net),
            "transform": transform,
            "pooling": _ONLY_MAX
            if params.pool == ("max",)
            else f"{', '.join(params.pool)} over space and parts of time",
            "precision": params.precision,
            "runtime": params.runtime,
        }
        # Named from the second one on, as older caches name none.
        folding = 1 if example is None else FOLDING_VERSION
        versions = {"version": version, "pooling_version": POOLING_VERSION, "folding_version": folding}
        self._identity |= {name: number for name, number in versions.items() if number > 1}
        self.dtype = torch.float16 if params.precision == "half" else torch.float32
        self.net = _in_half(params.name, net, example) if params.precision == "half" else _folded(net, example)
        self.device = torch.device("cpu")

    def to(self, device: str) -> Self:
        """Itself, on the device; raises BackboneError when its runtime cannot compute there."""
        if self.runtime == "onnxruntime" and device != "cpu":
            raise BackboneError(
                f"backbone {self.name}: runtime: onnxruntime computes on the CPU, not on {device}; "
                "set runtime: torch or compute.device: cpu"
            )
        self.net.to(device)
        self.device = torch.device(device)
        return self

    def identity(self) -> dict[str, Any]:
        """What it takes to make the same features again, as JSON can say it; the weights are those before folding.

        Neither where the weights came from nor which other layers are kept is part of it.
        """
        return self._identity | ({"source_sha256": self.source_sha256} if self.source_sha256 else {})

    @property
    def on(self) -> str:
        """Where it computes, cpu or cuda."""
        return self.device.type

    def rows(self, windows: NDArray[Any], *, length: int) -> dict[str, NDArray[np.float32]]:
        """As a call of it, of arrays and on the CPU.

        On a GPU, passes that several threads ask for are computed one behind the other, without a gap: who has given
        it what to do lets the next one do so, and waits for its own rows alone.
        """
        cuda, given = self.on == "cuda", torch.from_numpy(windows)
        if cuda:
            given = given.pin_memory()  # held until the end: it is read when the GPU comes to it
        with _GIVING if cuda else nullcontext():
            found = self(given.to(self.device, non_blocking=True), length=length)
            rows = torch.cat([x.flatten(1) for x in found.values()], dim=1).to("cpu", non_blocking=True)
            done = torch.cuda.Event(blocking=True) if cuda else None  # type: ignore[no-untyped-call]
            if done:
                done.record()
        if done:
            done.synchronize()
        parts = torch.split(rows, [x[0].numel() for x in found.values()], dim=1)
        return {layer: part.reshape(len(windows), length, -1).numpy() for layer, part in zip(found, parts, strict=True)}

    @abstractmethod
    def maps(self, windows: Shaped[Tensor, "B ..."]) -> Sequence[Float[Tensor, "B _ _ ..."]]:
        """(B, C_in, T, ...) of each layer: time third, whatever is behind it is space. Normalises per window.

        With `pool: token` the class tokens (B, C_in, T) of each layer follow.
        """

    @torch.inference_mode()
    def __call__(self, windows: Tensor, *, length: int) -> dict[str, Float32[Tensor, "_ {length} _"]]:
        """{layer: (B, L, C_in) float32} of B windows.

        windows: crops (B, T, S, S, 3) uint8, RGB; spectrogram (B, bands, hops) float32, ln power; or waveform
        (B, samples) int16, 16 kHz; `input` says which.
        """
        dtype, shape, dimensions = _WINDOWS[self.input]
        if windows.dtype != dtype or windows.ndim != dimensions or (self.input == "crops" and windows.shape[-1] != 3):
            raise BackboneError(
                f"backbone {self.name} takes {self.input} {shape} {dtype}, not {tuple(windows.shape)} {windows.dtype}"
            )
        maps = self.maps(windows.to(self.device))
        number = len(self.layers)
        tokens: Sequence[Tensor | None] = [None] * number
        if "token" in self.pool:
            maps, tokens = maps[:number], maps[number:]
        return {
            name: pool(found, length=length, kinds=self.pool, token=token)
            for name, found, token in zip(self.layers, maps, tokens, strict=True)
        }


HALF_TOLERANCE = 1e-2
"""Largest change of a feature map that half precision may make, relative to the map's largest value."""


def _folded(net: torch.nn.Module, example: torch.Tensor | None) -> torch.nn.Module:
    return net if example is None else fuse_conv_bn(net, example)


@torch.no_grad()  # not inference mode: of its tensors, oneDNN (on CPUs that compute in float16) can keep no packed copy
def _in_half(name: str, net: torch.nn.Module, example: torch.Tensor | None) -> torch.nn.Module:
    """The network, folded, in float16; raises BackboneError when that changes the example's maps too much."""
    wanted = None if example is None else net(example)
    half = _folded(net, example).to(torch.float16)
    if example is not None and wanted is not None:
        error = largest_error(half(example.to(torch.float16)), wanted)
        if not error <= HALF_TOLERANCE:  # also where something overflowed
            raise BackboneError(
                f"backbone {name}: precision: half changes a layer by {error:.1e} of its largest value, more than "
                f"{HALF_TOLERANCE:g}: set precision: full"
            )
    return half


_POOLS: Mapping[Pooling, Callable[[Tensor, tuple[int, ...]], Tensor]] = {
    "max": lambda x, over: x.amax(over),
    "mean": lambda x, over: x.mean(over),
    "deviation": lambda x, over: x.std(over, correction=0),
}


def pool(
    feature_map: Float[Tensor, "B C T *space"],
    *,
    length: int,
    kinds: Sequence[Pooling] = ("max",),
    token: Float[Tensor, "B C T"] | None = None,
) -> Float32[Tensor, "B {length} _"]:
    """(B, L, kinds * C) float32: each kind over space and a part of time, one behind the other along the channels.

    feature_map: (B, C, T, ...), time third and space behind it. Part i is that of adaptive pooling (DESIGN: the reshape
    layer's pooling): steps floor(i T / L) to ceil((i + 1) T / L), so that parts overlap where L does not divide T.
    token: (B, C, T), for the kind of that name: its mean over the part.
    """
    steps = feature_map.shape[2]
    over = tuple(range(2, feature_map.ndim))
    parts = []
    for i in range(length):
        # No number below 0: ONNX divides those another way.
        of_part = slice(i * steps // length, ((i + 1) * steps + length - 1) // length)
        part = feature_map[:, :, of_part].float()
        found = [_POOLS[kind](part, over) for kind in kinds if kind != "token"]
        if token is not None:
            found.append(token[:, :, of_part].float().mean(dim=2))
        parts.append(torch.cat(found, dim=1))
    return torch.stack(parts, dim=1)


def choose_stages(params: BackboneParams, n_stages: int) -> list[int]:
    """The numbers of the stages that `layers` asks for, shallow to deep; raises BackboneError where there is none."""
    wanted = params.layers
    stages = list(range(n_stages - wanted, n_stages)) if isinstance(wanted, int) else sorted(set(wanted))
    if not stages or not set(stages) <= set(range(n_stages)):
        raise NoSuchStageError(params.name, wanted, n_stages)
    return stages


def weights_sha256(net: torch.nn.Module) -> str:
    """64 hex digits that name every tensor of the network: its name, shape, type and bytes."""
    sha = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        sha.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        sha.update(tensor.cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()


class ImageBackbone(Backbone):
    """A two-dimensional network: pictures one by one, or spectrograms as pictures of one channel.

    `net` gives a list of (N, C, H, W), one for each of `stages`.
    """

    runtimes: ClassVar[tuple[str, ...]] = ("torch", "onnxruntime")
    example_frames: ClassVar[tuple[int, ...]] = ()

    def __init__(
        self,
        modality: Modality,
        params: BackboneParams,
        net: torch.nn.Module,
        *,
        stages: Sequence[tuple[str, int]],
        mean: Sequence[float],
        std: Sequence[float],
        example_px: int = 64,
        version: int = 1,
        token: bool = False,
    ) -> None:
        """mean, std: of RGB as fractions of 255. token: with `pool: token`, (N, C) of each stage follow the maps."""
        visual = modality == "visual"
        shape = (1, IN_CHANNELS[modality], *self.example_frames, example_px, example_px)
        super().__init__(
            modality,
            params,
            net,
            input="crops" if visual else "spectrogram",
            stages=stages,
            transform=scaling(mean, std) if visual else STANDARDISED,
            example=torch.randn(shape, generator=torch.Generator().manual_seed(0)),
            version=version,
            token=token,
        )
        if not self.example_frames:
            self.net.to(memory_format=torch.channels_last)
        if params.runtime == "onnxruntime":
            self.net = OnnxNet(self.net)
        self._scale = torch.tensor([list(mean), list(std)])

    def to(self, device: str) -> Self:
        """As every backbone. What pictures are scaled by goes along: a copy in each pass would wait for the GPU."""
        super().to(device)
        self._scale = self._scale.to(device)
        return self

    def transform(
        self, windows: UInt8[Tensor, "B T S S 3"] | Float32[Tensor, "B bands hops"]
    ) -> Float32[Tensor, "_ _ _ _"]:
        """(B * T, 3, S, S) from crops, or (B, 1, bands, hops) from spectrograms; float32."""
        if self.input == "crops":
            return scaled_frames(windows, *self._scale)
        return standardised(windows)[:, None]

    def maps(self, windows: Shaped[Tensor, "B ..."]) -> Sequence[Float[Tensor, "B _ _ ..."]]:
        """(B, C, T, H, W) of crops, (B, C, T, F) of spectrograms; a spectrogram's one class token at every step."""
        found = self.net(self.transform(windows).to(self.dtype))
        if self.input == "crops":
            return [x.unflatten(0, windows.shape[:2]).transpose(1, 2) for x in found]
        steps = found[0].shape[3]
        return [x.transpose(2, 3) if x.ndim == 4 else x[..., None].expand(-1, -1, steps) for x in found]


class ClipBackbone(ImageBackbone):
    """A three-dimensional network over crops. `net` gives a list of (B, C, T, H, W), one for each of `stages`."""

    runtimes = ("torch",)
    example_frames = (4,)

    def to(self, device: str) -> Self:
        """As every backbone; on a GPU channels-last, as crops are. On the CPU that would change last bits."""
        for module in self.net.modules() if device != "cpu" else ():
            if isinstance(module, torch.nn.Conv3d):
                module.to(memory_format=torch.channels_last_3d)
            elif isinstance(module, torch.nn.Conv2d):
                module.to(memory_format=torch.channels_last)
        return super().to(device)

    def transform(self, windows: UInt8[Tensor, "B T S S 3"]) -> Float32[Tensor, "B 3 T S S"]:
        """(B, 3, T, S, S) float32 from crops."""
        return torch.unflatten(super().transform(windows), 0, windows.shape[:2]).transpose(1, 2)

    def maps(self, windows: UInt8[Tensor, "B T S S 3"]) -> Sequence[Float[Tensor, "B _ _ _ _"]]:
        """(B, C, T, H, W) as the network gives them."""
        found: Sequence[torch.Tensor] = self.net(self.transform(windows).to(self.dtype))
        return found


IN_CHANNELS: dict[Modality, int] = {"visual": 3, "audio": 1}
STANDARDISED = "minus the window's mean, over its standard deviation; one channel, the stem's RGB weights summed"


def standardised(windows: Float32[Tensor, "B bands hops"]) -> Float32[Tensor, "B bands hops"]:
    """Each (bands, hops) less its own mean, over its own deviation: neither loudness nor another window gets in."""
    flat = windows.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    return (centred / (flat.std(dim=1, keepdim=True) + 1e-5)).view_as(windows)


def scaled_frames(
    crops: UInt8[Tensor, "B T S S 3"], mean: Float32[Tensor, " 3"], std: Float32[Tensor, " 3"]
) -> Float32[Tensor, "B*T 3 S S"]:
    """(B * T, 3, S, S) float32 from (B, T, S, S, 3) uint8; mean, std: (3,). Channels-last, as crops are."""
    pixels = crops.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    return torch.div(pixels - mean.view(-1, 1, 1), std.view(-1, 1, 1))


def scaling(mean: Sequence[float], std: Sequence[float]) -> str:
    """The words for what ImageBackbone and ClipBackbone do to crops."""
    # As float32 has them: what the network gets.
    texts = [torch.tensor(list(values)).tolist() for values in (mean, std)]
    return f"uint8 / 255, minus {texts[0]}, over {texts[1]}"
