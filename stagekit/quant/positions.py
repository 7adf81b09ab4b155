"""Where a graph is quantised: one set of positions for all targets.

- What a product (Conv, ConvTranspose, MatMul, Gemm) reads is quantised, and so is what a convolution gives,
  behind the Relu or Clip that runtimes merge into it. Matrix products give floats: what follows them in a
  transformer (bias, GELU, LayerScale) is not computed in integers anywhere.
- What attention weighs its values with stays float, and so does that product: the shares of some hundred tokens are a
  level or none of the 255 that have to reach up to 1. Of ViT-S/14's multiply-accumulates, that is 5 %.
- An elementwise sum, a concatenation or a pooling is quantised where all that it reads is; in a transformer's
  residual stream nothing is, so it stays float.
- What only moves values (Reshape, Transpose, MaxPool, ...) keeps the scale of what it moves.
- A boundary is integer when what produces it gives integers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.fingerprint import in_order

CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
PRODUCTS = CONVOLUTIONS | {"MatMul", "Gemm"}
JOINS = frozenset({"Add", "Concat", "AveragePool", "GlobalAveragePool"})
MOVES = frozenset({"Reshape", "Transpose", "MaxPool", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Identity"})
MERGED = frozenset({"Relu", "Clip"})


@dataclass(frozen=True, slots=True)
class Positions:
    """What is quantised in a graph.

    Args:
        tensors: activations by name, each with the name of the tensor whose scale it has (its own as a rule).
        nodes: the nodes that compute in integers, by name.
        integer_inputs: those of the graph's inputs that arrive as integers.
        wide: the tensors among them that are stored in the scheme's wide format, where it has one.
    """

    tensors: dict[str, str]
    nodes: frozenset[str]
    integer_inputs: frozenset[str] = frozenset()
    wide: frozenset[str] = frozenset()

    @property
    def sources(self) -> tuple[str, ...]:
        """The tensors whose ranges are needed, without the inputs that arrive as integers."""
        return tuple(t for t in dict.fromkeys(self.tensors.values()) if t not in self.integer_inputs)


def find_positions(graph: Graph, quantised_inputs: Collection[str] = (), keep_float: Sequence[str] = ()) -> Positions:
    """The positions of a stage.

    Args:
        quantised_inputs: boundary tensors that arrive as integers.
        keep_float: patterns (``*fc2*``) of names of nodes that compute in floats.
    """
    scale_of = {name: name for name in quantised_inputs}
    nodes: set[str] = set()
    for node in in_order(graph.body):
        if any(fnmatch(str(node.name), pattern) for pattern in keep_float):
            continue
        read = activations(graph, node)
        names = [str(v.name) for v in read]
        if node.op_type in PRODUCTS and read and _has_known_weight(graph, node) and not _attends(read):
            scale_of |= {name: _moved(value, scale_of) for name, value in zip(names, read, strict=True)}
        elif node.op_type in JOINS and len(read) == _inputs(node) and all(name in scale_of for name in names):
            pass
        elif node.op_type in MOVES and names and names[0] in scale_of:
            scale_of |= {str(v.name): scale_of[names[0]] for v in node.outputs}
            continue
        else:
            continue
        nodes.add(str(node.name))
        if node.op_type in CONVOLUTIONS | JOINS:
            end = str(merged_output(node).name)
            scale_of[end] = end
    return Positions(_in_use(graph, scale_of, nodes), frozenset(nodes), frozenset(quantised_inputs))


def activations(graph: Graph, node: ir.Node) -> list[ir.Value]:
    """What a node reads that is not a weight; for a product, without its bias."""
    values = node.inputs[:2] if node.op_type in PRODUCTS else node.inputs
    return [v for v in values if v is not None and weight_of(v) is None and v.dtype == ir.DataType.FLOAT]


def weight_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """A constant's contents: an initializer, or a Constant node's tensor."""
    return None if value is None else ir.convenience.get_const_tensor(value)


def bias_reader(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node and input at which a product's bias comes in."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    users = list(node.outputs[0].uses())
    if len(users) != 1 or users[0][0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    other = 1 - users[0][1]
    return (users[0][0], other) if weight_of(users[0][0].inputs[other]) is not None else None


@dataclass(frozen=True, slots=True)
class BiasedProduct:
    """A product in integers, of an activation and a weight, with a constant bias.

    Args:
        source: the tensor whose scale the activation has.
        reader: the node and input at which the bias comes in.
    """

    node: ir.Node
    weight: np.ndarray[Any, Any]
    source: str
    reader: tuple[ir.Node, int]
    bias: np.ndarray[Any, Any]


def biased_products(graph: ir.Graph, positions: Positions) -> Iterator[BiasedProduct]:
    """Those of a graph; the walk goes on over a graph whose weights and biases are replaced meanwhile."""
    for node in [n for n in graph if str(n.name) in positions.nodes and n.op_type in PRODUCTS]:
        data, weight, reader = node.inputs[0], weight_of(node.inputs[1]), bias_reader(node)
        bias = weight_of(reader[0].inputs[reader[1]]) if reader else None
        source = positions.tensors.get(str(data.name)) if data is not None else None
        if source is not None and weight is not None and reader is not None and bias is not None:
            yield BiasedProduct(node, weight.numpy(), source, reader, bias.numpy())


def merged_output(node: ir.Node) -> ir.Value:
    """A node's output, or that of the Relu or Clip that alone reads it."""
    value = node.outputs[0]
    users = [user for user, _ in value.uses()]
    if len(users) == 1 and users[0].op_type in MERGED and not value.is_graph_output():
        return users[0].outputs[0]
    return value


def _in_use(graph: Graph, scale_of: dict[str, str], nodes: set[str]) -> dict[str, str]:
    """Without views of quantised tensors that nobody reads as integers."""
    kept = dict(scale_of)
    for node in reversed(in_order(graph.body)):
        for value in node.outputs:
            name = str(value.name)
            if kept.get(name, name) == name or value.is_graph_output():
                continue
            readers = [user for user, _ in value.uses()]
            if not any(str(r.name) in nodes or any(str(o.name) in kept for o in r.outputs) for r in readers):
                del kept[name]
    return kept


def _has_known_weight(graph: Graph, node: ir.Node) -> bool:
    """A product of an activation and a weight, or for MatMul of two activations."""
    weight = weight_of(node.inputs[1])
    if weight is None:
        return node.op_type == "MatMul" and weight_of(node.inputs[0]) is None
    return weight_of(node.inputs[0]) is None and weight.dtype == ir.DataType.FLOAT


def _attends(read: Sequence[ir.Value]) -> bool:
    """Whether these are the shares of a softmax and what they weigh."""
    return len(read) == 2 and any(_origin(value) == "Softmax" for value in read)


def _origin(value: ir.Value) -> str:
    """The operator that made a value, wherever it was moved since; empty for an input."""
    node = value.producer()
    while node is not None and node.op_type in MOVES and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return "" if node is None else node.op_type


def _inputs(node: ir.Node) -> int:
    return sum(v is not None for v in node.inputs)


def _moved(value: ir.Value, scale_of: dict[str, str]) -> str:
    """The tensor whose scale this one has: its own, unless it is only another view of a quantised tensor."""
    return scale_of.get(str(value.name), str(value.name))
