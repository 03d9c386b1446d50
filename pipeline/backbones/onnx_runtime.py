"""`runtime: onnxruntime`: a two-dimensional network on the CPU, one picture after the other."""

from __future__ import annotations

import importlib
import io
import warnings
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor


class MissingRuntimeError(ImportError):
    """The optional packages are not there; the message says how to install them."""


class OnnxNet(torch.nn.Module):
    """What `net` gives, [(N, C, H, W)], computed by onnxruntime; exported once for each size of picture."""

    def __init__(self, net: torch.nn.Module) -> None:
        """Raises MissingRuntimeError when onnxruntime or onnx is not installed."""
        super().__init__()
        self.net = net
        for package in ("onnx", "onnxruntime"):
            import_runtime(package)
        self._sessions: dict[torch.Size, Any] = {}

    def forward(self, x: Float32[Tensor, "N _ _ _"]) -> list[Float32[Tensor, "N _ _ _"]]:
        """The maps of (N, 1 or 3, H, W). Picture by picture: no batch size asks for an export of its own."""
        if x.shape[1:] not in self._sessions:
            self._sessions[x.shape[1:]] = self._export(x[:1])
        session = self._sessions[x.shape[1:]]
        pictures = torch.split(x.contiguous(memory_format=torch.contiguous_format), 1)
        found = [session.run(None, {"x": picture.numpy()}) for picture in pictures]
        return [torch.cat([torch.from_numpy(y) for y in maps]) for maps in zip(*found, strict=True)]

    def _export(self, example: torch.Tensor) -> Any:
        file: Any = io.BytesIO()
        with warnings.catch_warnings(action="ignore"):  # of the exporter, about itself
            torch.onnx.export(self.net, (example,), file, dynamo=False, input_names=["x"])
        return open_session(file.getvalue(), "cpu")


def open_session(content: bytes, device: str) -> Any:
    """onnxruntime's session of a graph on the device, cpu or cuda."""
    runtime = import_runtime("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
    if provider not in runtime.get_available_providers():
        raise MissingRuntimeError(
            f"onnxruntime has no {provider} here, only {', '.join(runtime.get_available_providers())}: pip install "
            "onnxruntime-gpu, or set compute.device: cpu"
        )
    return runtime.InferenceSession(content, options, providers=list(dict.fromkeys([provider, "CPUExecutionProvider"])))


def import_runtime(package: str) -> Any:
    """onnx or onnxruntime, which are optional; raises MissingRuntimeError."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingRuntimeError(
            f"runtime: onnxruntime and ONNX files need two more packages ({error}): pip install onnxruntime onnx, or "
            "set runtime: torch"
        ) from error
