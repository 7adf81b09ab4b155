"""What makes two graphs the same: a Merkle hash over operators, attributes, weights and inputs.

A tensor's hash covers the operator that makes it (domain, type, opset version), that operator's attributes,
the hashes of its inputs and which output it is; a weight's covers type, shape and bytes, wherever they are
stored, and a ``Constant`` node is a weight. A graph's fingerprint covers the hashes of its outputs and the
names, types and shapes of its own inputs and outputs. Names inside, the order of nodes, doc strings and the
producer do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph.spec import TensorSpec

HASH_THREADS = 2
"""hashlib releases the interpreter lock on large buffers, so two cores hash two weights at a time."""


def digest(*parts: object) -> str:
    """SHA-256 of the parts as JSON, which keeps their borders apart."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def tensor_bytes(tensor: ir.TensorProtocol) -> memoryview:
    """A weight's bytes as ONNX stores them (little-endian, C order), without a copy where it can be had."""
    if tensor.dtype is ir.DataType.STRING:
        # Not through numpy, whose byte strings lose the zeros at their end.
        strings = tensor.string_data() if isinstance(tensor, ir.StringTensor) else tensor.numpy().flatten()
        plain = [s.encode() if isinstance(s, str) else bytes(s) for s in strings]
        return memoryview(json.dumps([s.hex() for s in plain]).encode())
    if tensor.dtype.bitwidth < 8 or tensor.size == 0:
        return memoryview(tensor.tobytes())
    array = np.ascontiguousarray(tensor.numpy())
    return array.reshape(-1).view(np.uint8).data


def weight_hash(tensor: ir.TensorProtocol) -> str:
    """The hash of a constant: type, shape, bytes."""
    content = hashlib.sha256(tensor_bytes(tensor)).hexdigest()
    return digest("weight", tensor.dtype.name, [int(d) for d in tensor.shape.numpy()], content)


def tensor_hashes(graph: ir.Graph) -> dict[str, str]:
    """The hash of every tensor of a graph, by name."""
    weights = {name: v.const_value for name, v in graph.initializers.items() if v.const_value is not None}
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashed = dict(zip(weights, pool.map(weight_hash, weights.values()), strict=True))
    for value in graph.inputs:
        hashed.setdefault(str(value.name), digest("input", value.name, _type(value), _shape(value)))
    _hash_nodes(graph, hashed, graph.opset_imports)
    return hashed


def graph_fingerprint(
    graph: ir.Graph,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    hashes: Mapping[str, str],
) -> str:
    """The hash of a whole graph; 64 hex digits."""
    edges = [[[s.name, s.dtype, list(s.shape)] for s in specs] for specs in (inputs, outputs)]
    return digest("graph", edges, [hashes[str(v.name)] for v in graph.outputs])


def _hash_nodes(graph: ir.Graph, hashed: dict[str, str], opsets: Mapping[str, int], depth: int = 0) -> None:
    for node in in_order(graph):
        constant = _constant(node)
        if constant is not None:
            hashed[str(node.outputs[0].name)] = weight_hash(constant)
            continue
        attributes = [
            [name, _attribute(node.attributes[name], hashed, opsets, depth)] for name in sorted(node.attributes)
        ]
        inputs = ["" if v is None else hashed[str(v.name)] for v in node.inputs]
        while inputs and not inputs[-1]:  # optional inputs at the end may be left out or left empty
            inputs.pop()
        version = opsets.get(node.domain, 1)
        call = digest("node", node.domain, node.op_type, version, attributes, inputs, len(node.outputs))
        for index, value in enumerate(node.outputs):
            hashed[str(value.name)] = digest("output", call, index)


CONSTANT_TYPES = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}
"""Element types of the short forms in which a ``Constant`` node may write its tensor."""


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a ``Constant`` node; None for other nodes, and for its sparse and string forms."""
    if node.op_type != "Constant" or node.domain:
        return None
    for name, attribute in node.attributes.items():
        if attribute.type is ir.AttributeType.TENSOR:
            return attribute.as_tensor()
        if name in CONSTANT_TYPES:
            return ir.tensor(np.asarray(attribute.value, CONSTANT_TYPES[name]))
    return None


def _attribute(attribute: ir.Attr, outer: Mapping[str, str], opsets: Mapping[str, int], depth: int) -> Any:
    kind, value = attribute.type, attribute.value
    match kind:
        case ir.AttributeType.TENSOR:
            return [kind.name, weight_hash(value)]
        case ir.AttributeType.TENSORS:
            return [kind.name, [weight_hash(t) for t in value]]
        case ir.AttributeType.GRAPH:
            return [kind.name, _subgraph(value, outer, opsets, depth)]
        case ir.AttributeType.GRAPHS:
            return [kind.name, [_subgraph(g, outer, opsets, depth) for g in value]]
        case ir.AttributeType.FLOAT:
            return [kind.name, float(np.float32(value)).hex()]
        case ir.AttributeType.FLOATS:
            return [kind.name, [float(np.float32(v)).hex() for v in value]]
        case ir.AttributeType.INT:
            return [kind.name, int(value)]
        case ir.AttributeType.INTS | ir.AttributeType.STRINGS | ir.AttributeType.TYPE_PROTOS:
            return [kind.name, [str(v) for v in value]]
        case _:
            return [kind.name, str(value)]


def _subgraph(graph: ir.Graph, outer: Mapping[str, str], opsets: Mapping[str, int], depth: int) -> str:
    """A loop or branch body; tensors that it takes from outside count by their hash.

    Args:
        depth: how many bodies enclose it: an inner loop's counter is another tensor than the outer loop's.
    """
    hashed = dict(outer)
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            hashed[name] = weight_hash(value.const_value)
    for index, value in enumerate(graph.inputs):
        hashed[str(value.name)] = digest("body input", depth, index, _type(value), _shape(value))
    _hash_nodes(graph, hashed, opsets, depth + 1)
    return digest("body", [hashed[str(v.name)] for v in graph.outputs])


def _type(value: ir.Value) -> str:
    return value.dtype.name if value.dtype is not None else str(value.type)


def _shape(value: ir.Value) -> list[int | str] | None:
    if value.shape is None:
        return None
    return [d if isinstance(d, int) else str(d.value) for d in value.shape]


def in_order(graph: ir.Graph) -> list[ir.Node]:
    """The graph's nodes so that each comes after those it reads from; files need not be sorted.

    Raises:
        GraphError: a node depends on itself.
    """
    nodes = list(graph)
    made_here = {id(node) for node in nodes}
    finished: dict[int, bool] = {}
    order: list[ir.Node] = []
    for root in nodes:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                finished[id(node)] = True
                order.append(node)
            elif id(node) not in finished:
                finished[id(node)] = False
                stack.append((node, True))
                for source in (v.producer() for v in reads(node)):
                    if source is None or id(source) not in made_here or finished.get(id(source)):
                        continue
                    if id(source) in finished:
                        raise GraphError(f"node {node.name or node.op_type!r} is part of a cycle")
                    stack.append((source, False))
    return order


def reads(node: ir.Node) -> list[ir.Value]:
    """The values a node reads, those read inside its loop and branch bodies included."""
    found = [v for v in node.inputs if v is not None]
    for body in bodies(node):
        for inner in body:
            found.extend(reads(inner))
        found.extend(body.outputs)
    return found


def bodies(node: ir.Node) -> list[ir.Graph]:
    """The loop and branch bodies of a node."""
    found: list[ir.Graph] = []
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            found.append(attribute.as_graph())
        elif attribute.type is ir.AttributeType.GRAPHS:
            found.extend(attribute.as_graphs())
    return found
