"""Cross-layer equalisation: channels of neighbouring convolutions are scaled so that their ranges match.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1: for
``W2 f(W1 x + b1)`` and a positive ``s``, dividing row i of W1 and b1 by ``s_i = sqrt(r1_i / r2_i)`` and
multiplying column i of W2 by it changes nothing and gives both the range ``sqrt(r1_i r2_i)``. It helps where a
weight has one scale for all its channels, depthwise convolutions above all.

``f`` may be nothing or Relu. ReLU6 is not linear in its argument's scale: ``min(max(x, 0), 6)`` becomes a clip at
``6 / s_i`` in channel i, a Relu and a Min, which runtimes do not merge into the convolution.

In a transformer LayerNorms are evened out as well (:mod:`stagekit.quant.norms`), keys lose what they have in common
(:mod:`stagekit.quant.centre`), and a product whose channels are then multiplied by constants (LayerScale) gives those
constants what its own output channels differ by.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.constants import add_constant, weight_values
from stagekit.quant.centre import centre_keys
from stagekit.quant.formats import Array
from stagekit.quant.norms import LARGEST_FACTOR, even_norms
from stagekit.quant.positions import bias_reader, weight_of

BIAS_SHARE = 1.0
"""A bias counts as a range too, at this share of what it is next to the others': where biases share one scale of few
bits, a channel of small weights and a large bias, scaled up, would cost all others theirs."""

ROUNDS = 2
"""Passes over all pairs; scales settle along a chain."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two convolutions with nothing but an activation between them."""

    first: ir.Node
    activation: ir.Node | None
    second: ir.Node


def prepared(graph: Graph, equalised: bool) -> Graph:
    """The float graph whose tensors a record knows and integers are made of: the same function, LayerNorms evened out.

    Args:
        equalised: everything else as well.
    """
    return equalise(graph) if equalised else even_norms(graph)


def equalise(graph: Graph) -> Graph:
    """The same function with weights of more even ranges."""
    model = even_norms(graph).edit()
    centre_keys(model.graph)
    limits: dict[str, Array] = {}
    for node in [n for n in model.graph if n.op_type == "Mul"]:
        _balance_scale(model.graph, node)
    for _ in range(ROUNDS):
        for pair in _pairs(model.graph):
            if pair.activation is None or pair.activation.op_type == "Relu":
                _balance(model.graph, pair)
            elif (limit := _limit(pair.activation)) is not None:
                factors = _balance(model.graph, pair)
                name = str(pair.activation.outputs[0].name)
                limits[name] = limits.get(name, np.full(factors.size, limit)) / factors
    for node in list(model.graph):
        name = str(node.outputs[0].name) if node.outputs else ""
        if name in limits:
            _unclip(model.graph, node, limits[name])
    return replace(graph, model=model)


def _balance_scale(graph: ir.Graph, node: ir.Node) -> None:
    """MatMul or Gemm -> a constant for each channel: the constants take the differences between output channels."""
    index = next((i for i, v in enumerate(node.inputs) if weight_of(v) is not None), None)
    product = None if index is None else _product_before(node.inputs[1 - index])
    if index is None or product is None:
        return
    gain, weight = weight_values(node, index), weight_values(product, 1)
    reader = bias_reader(product)
    channels = 0 if product.op_type == "Gemm" and product.attributes.get_int("transB", 0) == 1 else 1
    if (
        gain.ndim != 1
        or gain.size != weight.shape[channels]
        or reader is None
        or weight_values(*reader).size != gain.size
    ):
        return
    taken = np.abs(weight).max(axis=1 - channels)
    factors = np.where(taken > 0, taken, 1.0)
    factors = np.clip(factors / np.exp(np.log(factors).mean()), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    _replace(graph, product, 1, weight / (factors if channels == 1 else factors[:, None]))
    _replace(graph, *reader, weight_values(*reader) / factors)
    _replace(graph, node, index, gain * factors)


def _product_before(value: ir.Value | None) -> ir.Node | None:
    """The matrix product that gives a value, through its bias and a Reshape, where nothing else reads it."""
    node = None if value is None else value.producer()
    while node is not None and len(node.outputs[0].uses()) == 1 and not node.outputs[0].is_graph_output():
        if node.op_type in ("MatMul", "Gemm"):
            return node if weight_of(node.inputs[1]) is not None else None
        if node.op_type not in ("Add", "Reshape"):
            return None
        source = next((v for v in node.inputs if v is not None and weight_of(v) is None), None)
        node = None if source is None else source.producer()
    return None


def _pairs(graph: ir.Graph) -> Iterator[Pair]:
    for first in [n for n in graph if n.op_type == "Conv" and weight_of(n.inputs[1]) is not None]:
        reader = _only_reader(first)
        activation = reader if reader is not None and reader.op_type in ("Relu", "Clip") else None
        second = _only_reader(activation) if activation is not None else reader
        if second is not None and second.op_type == "Conv" and weight_of(second.inputs[1]) is not None:
            yield Pair(first, activation, second)


def _only_reader(node: ir.Node) -> ir.Node | None:
    value = node.outputs[0]
    users = list(value.uses())
    return users[0][0] if len(users) == 1 and users[0][1] == 0 and not value.is_graph_output() else None


def _balance(graph: ir.Graph, pair: Pair) -> Array:
    """Scales a pair's weights; returns the factors by which the channels between them were divided."""
    first, second = weight_values(pair.first, 1), weight_values(pair.second, 1)
    groups = pair.second.attributes.get_int("group", 1)
    by_input = _by_input(second, groups)
    one = np.abs(first).reshape(first.shape[0], -1).max(axis=1)
    if len(pair.first.inputs) > 2 and pair.first.inputs[2] is not None:
        one = np.maximum(one, BIAS_SHARE * _in_units_of(one, np.abs(weight_values(pair.first, 2))))
    two = np.abs(by_input).reshape(by_input.shape[0], -1).max(axis=1)
    alive = (one > 0) & (two > 0)
    factors = np.ones(one.size)
    factors[alive] = np.clip(np.sqrt(one[alive] / two[alive]), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    shape = (-1,) + (1,) * (first.ndim - 1)
    _replace(graph, pair.first, 1, first / factors.reshape(shape))
    if len(pair.first.inputs) > 2 and pair.first.inputs[2] is not None:
        _replace(graph, pair.first, 2, weight_values(pair.first, 2) / factors)
    per_output = np.repeat(factors.reshape(groups, -1), second.shape[0] // groups, axis=0)
    _replace(graph, pair.second, 1, second * per_output.reshape(second.shape[:2] + (1,) * (second.ndim - 2)))
    return factors


def _in_units_of(ranges: Array, bias: Array) -> Array:
    """Magnitudes of biases, scaled so that the median of those that are not zero is that of the weights' ranges."""
    some, known = bias[bias > 0], ranges[ranges > 0]
    if bias.size != ranges.size or not some.size or not known.size:
        return np.zeros_like(ranges)
    return bias * float(np.median(known) / np.median(some))


def _by_input(weight: Array, groups: int) -> Array:
    """A grouped convolution's weight with its input channels, of all groups, first."""
    out, inner, *kernel = weight.shape
    grouped = weight.reshape(groups, out // groups, inner, *kernel)
    turned: Array = np.moveaxis(grouped, 2, 1).reshape(groups * inner, out // groups, *kernel)
    return turned


def _limit(node: ir.Node) -> float | None:
    """The upper end of a Clip that starts at zero."""
    if node.op_type != "Clip" or len(node.inputs) < 3:
        return None
    low, high = weight_of(node.inputs[1]), weight_of(node.inputs[2])
    if low is None or high is None or float(low.numpy()) != 0.0:
        return None
    return float(high.numpy())


def _unclip(graph: ir.Graph, node: ir.Node, limits: Array) -> None:
    """Relu, and a limit for each channel."""
    old, name = node.outputs[0], str(node.outputs[0].name)
    shape = (1, -1) + (1,) * (len(old.shape or ()) - 2)
    relu = ir.node("Relu", [node.inputs[0]], name=f"{node.name}/relu")
    constant = _constant(graph, f"{name}/limits", limits.reshape(shape))
    limited = ir.node("Min", [relu.outputs[0], constant], name=f"{node.name}/min")
    old.name = f"{name}/unused"
    for made, called in ((relu.outputs[0], f"{name}/unlimited"), (limited.outputs[0], name)):
        made.type, made.shape, made.name = old.type, old.shape, called
    old.replace_all_uses_with(limited.outputs[0], replace_graph_outputs=True)
    graph.insert_after(node, [relu, limited])
    graph.remove(node, safe=True)


def _replace(graph: ir.Graph, node: ir.Node, index: int, array: Array) -> None:
    base = str(node.inputs[index].name).partition("/equalised")[0]  # type: ignore[union-attr]  # a weight, as read
    node.replace_input_with(index, _constant(graph, f"{base}/equalised/{node.name}", array))


def _constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    stored = np.ascontiguousarray(array, np.float32)
    if name in graph.initializers:
        graph.initializers[name].const_value = ir.tensor(stored, name=name)
        return graph.initializers[name]
    return add_constant(graph, name, stored)
