"""Fewer passes over memory for what 1x1 convolutions do, by algebra: the same function up to rounding.

An adapter computes little and reads and writes a whole feature, so what costs is each further pass over it.
A 1x1 convolution is a matrix product over the channels, and products can be regrouped:

    W [a; b] = W_a a + W_b b      no concatenation to be written and read again
    V (W x) = (V W) x             one product for two, if it is not the larger one
    x + x * y = x * (1 + y)       one element-wise pass for two; 1 goes into the bias of what gives y
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from stagekit.graph.constants import add_constant
from stagekit.graph.model import Graph

Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def regrouped(graph: Graph) -> Graph:
    """The same function with its 1x1 convolutions regrouped. Needs inferred shapes; edges keep their names."""
    model = graph.edit()
    for node in list(model.graph):
        if node.op_type == "Add":
            _scale_by_one_more(model.graph, node)
    for node in list(model.graph):
        if _is_pointwise(node):
            _compose(model.graph, node)
    for node in list(model.graph):
        if _is_pointwise(node):
            _split(model.graph, node)
    RemoveUnusedNodesPass()(model)
    return graph.with_model(model)


def _scale_by_one_more(graph: ir.Graph, add: ir.Node) -> None:
    """``x + x * conv(z)`` as ``x * conv'(z)``."""
    for x, product in (tuple(add.inputs), tuple(reversed(add.inputs))):
        node = product.producer() if product is not None else None
        if x is None or product is None or node is None or node.op_type != "Mul" or not _only_reader(product):
            continue
        for scaled, weight in (tuple(node.inputs), tuple(reversed(node.inputs))):
            conv = weight.producer() if weight is not None else None
            if scaled is not x or conv is None or not _is_pointwise(conv) or not _only_reader(conv.outputs[0]):
                continue
            w, b = _weights(conv)
            _set(graph, conv, w, b + 1)
            sum_, name = add.outputs[0], add.outputs[0].name
            if sum_.is_graph_output():
                sum_.name = None
                product.name = name
            sum_.replace_all_uses_with(product, replace_graph_outputs=True)
            graph.remove(add, safe=True)
            return


def _compose(graph: ir.Graph, second: ir.Node) -> None:
    """Two 1x1 convolutions one behind the other as one, where that is no more work."""
    between = second.inputs[0]
    first = between.producer() if between is not None else None
    if first is None or not _is_pointwise(first) or not _only_reader(first.outputs[0]):
        return
    (w, b), (v, c) = _weights(first), _weights(second)
    inner, outer = w.shape[0], v.shape[0]
    if outer * w.shape[1] > inner * (w.shape[1] + outer):
        return
    _set(graph, second, v @ w, v @ b + c)
    second.replace_input_with(0, first.inputs[0])
    graph.remove(first, safe=True)


def _split(graph: ir.Graph, conv: ir.Node) -> None:
    """A 1x1 convolution of a concatenation as the sum of one for each part."""
    joined = conv.inputs[0]
    concat = joined.producer() if joined is not None else None
    if concat is None or concat.op_type != "Concat" or concat.attributes.get_int("axis", 0) != 1:
        return
    parts = [part for part in concat.inputs if part is not None]
    widths = [part.shape[1] if part.shape is not None else None for part in parts]
    if not all(isinstance(width, int) for width in widths) or not _worth_it(parts):
        return
    w, b = _weights(conv)
    output = conv.outputs[0]
    start, value = 0, None
    for number, (part, width) in enumerate(zip(parts, widths, strict=True)):
        assert isinstance(width, int)
        last = number == len(parts) - 1
        piece = ir.node("Conv", [part, None, None], dict(conv.attributes), name=f"{conv.name}/part{number}")
        made = piece.outputs[0]
        made.name, made.type, made.shape = f"{output.name}/part{number}", output.type, output.shape
        graph.insert_before(conv, piece)
        _set(graph, piece, w[:, start : start + width], b if number == 0 else np.zeros_like(b))
        start += width
        if value is None:
            value = made
            continue
        add = ir.node("Add", [value, made], name=f"{conv.name}/sum{number}")
        graph.insert_before(conv, add)
        value = add.outputs[0]
        value.name, value.type, value.shape = f"{output.name}/sum{number}", output.type, output.shape
        if last:
            name, output.name = output.name, None
            value.name = name
    assert value is not None, "a concatenation has inputs"
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.remove(conv, safe=True)


def _worth_it(parts: Sequence[ir.Value]) -> bool:
    """Whether one part comes from outside: what was computed just now, in pieces, is joined at no cost to speak of."""
    return len(parts) == 2 and any(part.is_graph_input() for part in parts)


def _is_pointwise(node: ir.Node) -> bool:
    """A convolution with a 1x1 window, one group, no stride or padding, and float weights that are constants."""
    if node.op_type != "Conv" or node.domain or node.attributes.get_int("group", 1) != 1:
        return False
    if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return False
    plain = {"strides": 1, "pads": 0}
    if any(set(node.attributes.get_ints(name, (usual,))) != {usual} for name, usual in plain.items()):
        return False
    constants = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None]
    if not constants or any(tensor is None or tensor.dtype != ir.DataType.FLOAT for tensor in constants):
        return False
    shape = node.inputs[1].shape if node.inputs[1] is not None else None
    return shape is not None and len(shape) == 4 and list(shape)[2:] == [1, 1]


def _only_reader(value: ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _weights(conv: ir.Node) -> tuple[Matrix, Matrix]:
    """(outputs, inputs) and (outputs,), in double precision."""
    assert conv.inputs[1] is not None
    weight = ir.convenience.get_const_tensor(conv.inputs[1])
    assert weight is not None, "checked by _is_pointwise"
    w = weight.numpy().astype(np.float64)[:, :, 0, 0]
    bias = ir.convenience.get_const_tensor(conv.inputs[2]) if len(conv.inputs) > 2 and conv.inputs[2] else None
    return w, np.zeros(len(w)) if bias is None else bias.numpy().astype(np.float64)


def _set(graph: ir.Graph, conv: ir.Node, weight: Matrix, bias: Matrix) -> None:
    """Gives a convolution new weights, under names of its own."""
    if len(conv.inputs) < 3:
        conv.resize_inputs(3)
    for index, (name, array) in enumerate((("weight", weight[:, :, None, None]), ("bias", bias)), start=1):
        named = f"{conv.name}/{name}"
        graph.initializers.pop(named, None)  # from an earlier step
        value = add_constant(graph, named, array.astype(np.float32))
        conv.replace_input_with(index, value)
