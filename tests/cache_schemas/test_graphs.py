"""ONNX files of strangers: data of their own pass, all that means a file or code of others is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cache_schemas.graphs import check_graph

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed (extra onnx)")
FLOAT = onnx.TensorProto.FLOAT


def model() -> Any:
    """y = x + w, and a branch of an If inside which w stands again."""
    helper = onnx.helper
    x, y = (helper.make_tensor_value_info(name, FLOAT, [2]) for name in "xy")
    weight = onnx.numpy_helper.from_array(np.ones(2, np.float32), "w")
    inner = helper.make_graph([helper.make_node("Constant", [], ["c"], value=weight)], "inner", [], [y])
    nodes = [
        helper.make_node("Add", ["x", "w"], ["y"]),
        helper.make_node("If", ["b"], ["z"], then_branch=inner, else_branch=inner),
    ]
    return helper.make_model(helper.make_graph(nodes, "outer", [x], [y], [weight]))


def elsewhere(tensor: Any) -> None:
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../etc/passwd")


def only_named(tensor: Any) -> None:
    tensor.external_data.add(key="location", value="weights.bin")


def test_a_graph_with_its_weights_inside_passes() -> None:
    check_graph(model().SerializeToString())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: elsewhere(m.graph.initializer[0]), "weights in another file"),
        (lambda m: only_named(m.graph.initializer[0]), "weights in another file"),
        (lambda m: elsewhere(m.graph.node[1].attribute[1].g.node[0].attribute[0].t), "weights in another file"),
        (lambda m: m.graph.sparse_initializer.add(values=m.graph.initializer[0]), None),
        (lambda m: elsewhere(m.graph.sparse_initializer.add().values), "weights in another file"),
        (lambda m: setattr(m.graph.node[0], "domain", "com.microsoft"), "an operator that is not of ONNX itself"),
        (lambda m: m.functions.add(name="f", domain="d"), "functions of its own"),
        (lambda m: m.training_info.add(), "a training graph"),
    ],
)
def test_what_means_a_file_or_code_of_others_is_refused(change: Callable[[Any], object], said: str | None) -> None:
    made = model()
    change(made)
    if said is None:
        check_graph(made.SerializeToString())
        return
    with pytest.raises(ValueError, match=said):
        check_graph(made.SerializeToString())


def test_graphs_in_one_another_end() -> None:
    made = onnx.helper.make_graph([], "g", [], [])
    for _ in range(20):
        made = onnx.helper.make_graph([onnx.helper.make_node("If", [], [], then_branch=made)], "g", [], [])
    with pytest.raises(ValueError, match="16 deep"):
        check_graph(onnx.helper.make_model(made).SerializeToString())


@pytest.mark.parametrize("content", [b"\xff" * 30, b"PK\3\4 no graph", b"\x3a\xff\xff\xff\x0f", b"\x38\x01", b"\x3b"])
def test_what_is_no_graph_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="no ONNX file"):
        check_graph(content)


def test_a_file_that_is_cut_off_is_refused() -> None:
    whole = model().SerializeToString()
    for size in range(1, len(whole) - 1, 7):
        try:
            check_graph(whole[:size])
        except ValueError:
            continue
        onnx.load_from_string(whole[:size])  # it ends between two fields


@pytest.mark.parametrize("padding", [b"\x80\x80\x80\x10", b"\x80\x80\x80\x80\x80\x80\x80\x80\x01"])
def test_a_field_by_a_number_that_others_read_as_another_is_refused(padding: bytes) -> None:
    """Protocol buffers' own reader keeps 32 bits of a field's key: what is above them hides external_data from us."""
    hidden = bytes([13 << 3 | 2 | 0x80]) + padding + b"\x00"
    initializer = bytes([5 << 3 | 2, len(hidden)]) + hidden
    content = bytes([7 << 3 | 2, len(initializer)]) + initializer
    with pytest.raises(ValueError, match="no ONNX file"):
        check_graph(content)


def test_a_field_of_number_0_is_refused() -> None:
    with pytest.raises(ValueError, match="no ONNX file"):
        check_graph(b"\x01" + bytes(8))
