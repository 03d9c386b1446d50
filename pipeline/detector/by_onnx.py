"""A detector's parts, computed by onnxruntime from the graphs of a bundle (`to_onnx` makes them): without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from cache_schemas.bundle import FUSING, MTCNN, SPECTROGRAM, backbone_graph
from cache_schemas.run import RetrainEntry, RetrainRun
from pipeline.backbones import Input, Modality
from pipeline.compute.machine import cores
from pipeline.detector.parts import Parts
from pipeline.detector.road import DetectorError
from pipeline.faces.mtcnn import Networks
from pipeline.features.forward import MODALITIES
from pipeline.params import Params
from pipeline.workspace import Workspace

Floats = NDArray[np.float32]


def onnx_parts(workspace: Workspace, run: RetrainRun, params: Params) -> Parts:
    """On the CPU; raises DetectorError where another device is asked for, or a graph cannot be used."""
    if params.compute.device == "cuda":
        raise DetectorError("this bundle is run by onnxruntime, on the CPU: leave the device at auto")
    root = workspace.root
    p, r, o = (Graph(root / name) for name in MTCNN)
    spectrogram, fusing = Graph(root / SPECTROGRAM), Graph(root / FUSING)
    backbones = [
        OnnxBackbone(modality, Graph(root / backbone_graph(modality, i)))
        for modality in MODALITIES
        for i in range(len(getattr(params.features, modality)))
    ]
    return Parts(
        backbones,
        Networks(p, r, o),
        lambda waves, _: spectrogram(waves)[0],
        [(entry.network, Scorer(fusing, entry)) for entry in run.entries],
    )


class Graph:
    """An ONNX file's session: arrays in and out."""

    def __init__(self, path: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or cores())
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # each session has its own threads
        options.log_severity_level = 4
        # Else onnxruntime takes its own format for it, in which any operator can stand and which nobody has checked.
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            # Of bytes, so that no file beside it can be meant.
            self._session: Any = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # classes of its own
            raise DetectorError(f"{path.name}: onnxruntime cannot open it: {error}") from error
        self.inputs = [each.name for each in self._session.get_inputs()]
        self.outputs = [each.name for each in self._session.get_outputs()]
        self.widths = [each.shape[-1] if each.shape else 1 for each in self._session.get_outputs()]

    def __call__(self, *inputs: NDArray[Any], only: str | None = None) -> tuple[Any, ...]:
        """All outputs, or the one."""
        given = {name: np.ascontiguousarray(x) for name, x in zip(self.inputs, inputs, strict=True)}
        return tuple(self._session.run(only and [only], given))


class OnnxBackbone:
    """A backbone: its graph's input is called by what it takes, its outputs by the layers."""

    on = "cpu"

    def __init__(self, modality: Modality, graph: Graph) -> None:
        if len(graph.inputs) != 1 or graph.inputs[0] not in get_args(Input):
            raise DetectorError(
                f"a backbone's graph takes {graph.inputs}; allowed: one of {', '.join(get_args(Input))}"
            )
        self.modality: Modality = modality
        self.input = cast(Input, graph.inputs[0])
        self._graph = graph
        self.layers = dict(zip(graph.outputs, graph.widths, strict=True))

    def rows(self, windows: NDArray[Any], *, length: int) -> dict[str, Floats]:
        """{layer: (B, L, C_in)} of B windows; the length is the graph's."""
        return dict(zip(self._graph.outputs, self._graph(windows), strict=True))


class Scorer:
    """One of the networks in the graph that holds them all."""

    def __init__(self, graph: Graph, entry: RetrainEntry) -> None:
        self._graph, self._name = graph, f"{entry.network}-{entry.seed}"
        if self._name not in graph.outputs:
            raise DetectorError(f"the networks' graph has no {self._name}, only {', '.join(graph.outputs)}")

    def __call__(self, features: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        given = (features[name].astype(np.float32) for name in self._graph.inputs)
        return np.asarray(self._graph(*given, only=self._name)[0], np.float64)
