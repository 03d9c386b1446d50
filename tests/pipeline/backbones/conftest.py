"""Small networks in files, written once a run."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.pipeline.backbones.tiny_transformers import TINY, write


@pytest.fixture(scope="session")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with picture.onnx, sound.onnx and spectrogram.onnx; an empty one where onnx is not installed."""
    folder = tmp_path_factory.mktemp("onnx")
    if find_spec("onnx"):
        save(folder / "picture.onnx", *picture())
        save(folder / "sound.onnx", *sound())
        save(folder / "spectrogram.onnx", *spectrogram())
    return folder


@pytest.fixture(scope="session")
def transformers_folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one for each of TINY; an empty one where transformers is not installed."""
    folder = tmp_path_factory.mktemp("transformers")
    if find_spec("transformers"):
        for name in TINY:
            write(folder / name, name)
    return folder


def save(path: Path, shape: list[Any], nodes: list[Any], weights: dict[str, Any], output: str) -> None:
    """An ONNX file of one input x."""
    import onnx
    from onnx import helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for name, values in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


def drawn(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def picture() -> tuple[list[Any], list[Any], dict[str, Any], str]:
    """Pictures of any size: two convolutions."""
    from onnx import helper

    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["conv"], name="first", strides=[4, 4]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("Conv", ["relu", "w2"], ["deep"], strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["deep"], ["average"]),
        helper.make_node("Flatten", ["average"], ["embedding"]),
    ]
    return ["n", 3, "h", "w"], nodes, {"w1": drawn(4, 3, 4, 4), "w2": drawn(6, 4, 2, 2)}, "embedding"


def sound() -> tuple[list[Any], list[Any], dict[str, Any], str]:
    """Waveforms, in steps of 10 ms: two matrices."""
    from onnx import helper

    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["parts"]),
        helper.make_node("MatMul", ["parts", "w1"], ["steps"]),
        helper.make_node("Tanh", ["steps"], ["tanh"]),
        helper.make_node("MatMul", ["tanh", "w2"], ["deep"]),
    ]
    weights = {"shape": np.array([0, -1, 160]), "w1": drawn(160, 5), "w2": drawn(5, 7)}
    return ["n", "samples"], nodes, weights, "deep"


def spectrogram() -> tuple[list[Any], list[Any], dict[str, Any], str]:
    """Spectrograms of 80 bands as pictures: a convolution."""
    from onnx import helper

    nodes = [helper.make_node("Conv", ["x", "w"], ["conv"], name="/stem/Conv", strides=[2, 4])]
    return [1, 1, 80, 120], nodes, {"w": drawn(4, 1, 2, 4)}, "conv"
