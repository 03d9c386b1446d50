"""Graphs of strangers that are well-formed ONNX, or look like it."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest

from pipeline.detector.by_onnx import Graph
from pipeline.detector.road import DetectorError

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed (extra onnx)")


def test_onnxruntimes_own_format_is_not_opened_in_place_of_onnx(tmp_path: Path) -> None:
    """In it any operator can stand, and a file can be made that is both; only ONNX has been looked through."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(tmp_path / "own.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (tmp_path / "net.onnx").write_bytes((tmp_path / "own.ort").read_bytes())
    with pytest.raises(DetectorError, match=r"net\.onnx: onnxruntime cannot open it"):
        Graph(tmp_path / "net.onnx")
