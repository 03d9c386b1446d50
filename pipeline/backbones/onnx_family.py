"""`onnx:PATH#tap,tap`: any network in an ONNX file; its layers are the outputs of the nodes that are named."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped
from torch import Tensor

from pipeline.backbones.base import STANDARDISED, Backbone, scaled_frames, scaling, standardised
from pipeline.backbones.onnx_runtime import MissingRuntimeError, import_runtime, open_session
from pipeline.backbones.words import BackboneError, Input, Modality
from pipeline.params import BackboneParams, layer_prefix

VERSION = 1  # raise it when the same parameters and file give other maps
_MOST_BYTES = 2**31 - 1  # what a message of protocol buffers can be
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
_INPUTS: dict[tuple[Modality, int], tuple[Input, str, tuple[int, ...]]] = {
    ("visual", 4): ("crops", scaling(_MEAN, _STD), (1, 3, 224, 224)),
    ("audio", 2): ("waveform", "int16 / 32768", (1, 64_000)),
    ("audio", 3): ("spectrogram", STANDARDISED.partition(";")[0], (1, 80, 400)),
    ("audio", 4): ("spectrogram", STANDARDISED.partition(";")[0], (1, 1, 80, 400)),
}
"""{(modality, the input's dimensions): what it is fed, and a size where the file leaves it open}"""


def build(modality: Modality, params: BackboneParams) -> Backbone:
    """The file's network with the taps as its layers; `layers` is not looked at, as the taps name them."""
    path, _, taps = params.name.partition(":")[2].partition("#")
    graph = Graph(Path(path), params)
    dimensions = len(graph.shape)
    if (modality, dimensions) not in _INPUTS:
        raise BackboneError(
            f"backbone {params.name}: its input {graph.shape} has {dimensions} dimensions; for features.{modality} it "
            f"has {' or '.join(str(n) for of, n in _INPUTS if of == modality)} (docs/backbones.md)"
        )
    kind, transform, sizes = _INPUTS[modality, dimensions]
    example = torch.zeros([size or usual for size, usual in zip(graph.shape, sizes, strict=True)])
    return OnnxBackbone(
        modality, params, graph, taps=taps.split(","), example=example, input=kind, transform=transform, version=VERSION
    )


class Graph:
    """An ONNX file that was read: without data in other files, with one float32 input."""

    def __init__(self, path: Path, params: BackboneParams) -> None:
        """Raises BackboneError when it cannot be read, is too large or refers to other files.

        params: `weights` is bundled, for those in the file, or seed:N, to shuffle them; the name is for messages.
        """
        self.name = params.name
        kind, _, seed = params.weights.partition(":")
        if kind not in ("bundled", "seed"):
            raise self.error(f"its weights are in the file: weights: bundled or seed:N, not {params.weights}")
        if params.precision == "half":
            raise self.error("computes as its file says: set precision: full")
        content = self._read(path)
        self._onnx = import_runtime("onnx")
        try:
            self._model: Any = self._onnx.load_from_string(content)
        except Exception as error:
            raise self.error(f"{path} is no ONNX file: {error}") from error
        if any(tensor.data_location == self._onnx.TensorProto.EXTERNAL for tensor in _tensors(self._model)):
            raise self.error(
                f"{path} keeps its weights in other files: save it as one (onnx.save(onnx.load(...), ...))"
            )
        self.digest = hashlib.sha256(content + (f";seed:{seed}".encode() if kind == "seed" else b"")).digest()
        """Of the file, and of the seed that its weights were shuffled by."""
        if kind == "seed":
            self._shuffle(int(seed))
        self.input, self.shape = self._only_input()

    def error(self, what: str) -> BackboneError:
        """What is wrong, with the backbone's name."""
        return BackboneError(f"backbone {self.name}: {what}")

    def _read(self, path: Path) -> bytes:
        try:
            size = path.stat().st_size
            if size > _MOST_BYTES:
                raise self.error(f"{path} has {size} bytes, more than an ONNX file may ({_MOST_BYTES})")
            return path.read_bytes()
        except OSError as error:
            raise self.error(f"{error}; a name is onnx:PATH#tap,tap") from None

    def _only_input(self) -> tuple[str, tuple[int, ...]]:
        """Its name and sizes, 0 where the file leaves one open; of more inputs none is known to be the right one."""
        graph = self._model.graph
        given = {tensor.name for tensor in graph.initializer}
        inputs = [value for value in graph.input if value.name not in given]
        if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type != self._onnx.TensorProto.FLOAT:
            raise self.error(f"needs one input, float32; it has {', '.join(value.name for value in inputs) or 'none'}")
        shape = inputs[0].type.tensor_type.shape.dim
        return inputs[0].name, tuple(int(size.dim_value) for size in shape)

    def _shuffle(self, seed: int) -> None:
        """Shuffles the numbers of every matrix: random weights of the same sizes, whole numbers stay whole."""
        kinds = {getattr(self._onnx.TensorProto, kind) for kind in ("FLOAT", "FLOAT16", "INT8", "UINT8")}
        draw = np.random.default_rng(seed)
        for tensor in self._model.graph.initializer:
            if len(tensor.dims) > 1 and tensor.data_type in kinds:
                values = self._onnx.numpy_helper.to_array(tensor)
                shuffled = draw.permutation(values.ravel()).reshape(values.shape)
                tensor.CopyFrom(self._onnx.numpy_helper.from_array(shuffled, tensor.name))

    def cut(self, taps: Sequence[str]) -> bytes:
        """The file's content with the taps as its only outputs; each is an output or a node's name."""
        nodes = self._model.graph.node
        of_node = {node.name: node.output[0] for node in nodes if node.name}
        values = {output for node in nodes for output in node.output if output}
        unknown = [tap for tap in taps if tap not in values and tap not in of_node]
        if unknown or len(set(taps)) < len(taps):
            last = ", ".join([node.output[0] for node in nodes][-20:])
            raise self.error(
                f"taps are onnx:PATH#tap,tap, each once; there is no {unknown or taps}; the last are {last}"
            )
        model = self._onnx.ModelProto()
        model.CopyFrom(self._model)
        del model.graph.output[:]
        model.graph.output.extend(
            self._onnx.helper.make_empty_tensor_value_info(tap if tap in values else of_node[tap]) for tap in taps
        )
        content: bytes = model.SerializeToString()
        return content


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto within a message, wherever it stands."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if hasattr(value, "__len__") else [value]:
                if field.message_type.name == "TensorProto":
                    yield part
                yield from _tensors(part)


class _Taps(torch.nn.Module):
    """A graph's taps, computed by onnxruntime, one picture or window after the other."""

    def __init__(self, graph: Graph, taps: Sequence[str]) -> None:
        super().__init__()
        # So that the identity of the backbone, a digest of its network's tensors, is the file's.
        self.register_buffer("sha256", torch.frombuffer(bytearray(graph.digest), dtype=torch.uint8))
        self._graph = graph
        self._content = graph.cut(taps)
        self.open("cpu")

    def open(self, device: str) -> None:
        """Has it computed on the device."""
        try:
            self._session = open_session(self._content, device)
        except MissingRuntimeError:
            raise
        except Exception as error:
            raise self._graph.error(f"onnxruntime cannot open it: {error}") from error

    def forward(self, x: Float32[Tensor, "N ..."]) -> list[Float32[Tensor, "N ..."]]:
        """What each tap gives."""
        try:
            found = [
                self._session.run(None, {self._graph.input: one.cpu().numpy()})
                for one in torch.split(x.contiguous(), 1)
            ]
        except Exception as error:  # onnxruntime's own class: another size than the file's
            raise self._graph.error(f"{error}; it was given {tuple(x.shape)}") from error
        return [torch.cat([torch.from_numpy(y) for y in maps]).to(x.device) for maps in zip(*found, strict=True)]


class OnnxBackbone(Backbone):
    """The taps of an ONNX file: (N, C, H, W), (N, steps or places, C) or (N, C)."""

    net: _Taps

    def __init__(
        self,
        modality: Modality,
        params: BackboneParams,
        graph: Graph,
        *,
        taps: Sequence[str],
        example: Tensor,
        input: Input,
        transform: str,
        version: int,
    ) -> None:
        """example: an input of the graph, to learn its taps' channels from; the rest as Backbone's."""
        net = _Taps(graph, taps)
        maps = [_channels_second(x) for x in net(example)]
        super().__init__(
            modality,
            params,
            net,
            input=input,
            stages=[(tap.replace("/", "_"), x.shape[1]) for tap, x in zip(taps, maps, strict=True)],
            transform=transform,
            version=version,
        )
        self._dimensions = example.ndim

    def to(self, device: str) -> Self:
        """As every backbone; computed by onnxruntime there."""
        if device != self.device.type:
            self.net.open(device)
        return super().to(device)

    def identity(self) -> dict[str, Any]:
        """As every backbone's, with the file's name in place of the whole path and the taps."""
        return super().identity() | {"name": layer_prefix(self.name)}

    def transform(self, windows: Shaped[Tensor, "B ..."]) -> Float32[Tensor, "_ ..."]:
        """The windows as the graph takes them."""
        if self.input == "crops":
            return scaled_frames(windows, *torch.tensor([_MEAN, _STD], device=windows.device))
        if self.input == "waveform":
            return windows.float() / 32768
        x = standardised(windows)
        return x if self._dimensions == 3 else x[:, None]

    def maps(self, windows: Shaped[Tensor, "B ..."]) -> Sequence[Float[Tensor, "B _ _ ..."]]:
        """(B, C, T, ...) of crops, (B, C, T, F) or (B, C, T) of sound."""
        found = [_channels_second(x) for x in self.net(self.transform(windows))]
        if self.input == "crops":
            return [torch.unflatten(x, 0, windows.shape[:2]).transpose(1, 2) for x in found]
        return [x.transpose(2, 3) if x.ndim == 4 else x if x.ndim == 3 else x[..., None] for x in found]


def _channels_second(x: Tensor) -> Tensor:
    """(N, C, H, W) and (N, C) as they are, as convolutions and heads give them; (N, C, steps) of transformers' last."""
    return x.mT if x.ndim == 3 else x
