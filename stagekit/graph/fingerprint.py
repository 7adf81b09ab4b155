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
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.graph.spec import TensorSpec

HASH_THREADS = 2
"""hashlib releases the interpreter lock on large buffers, so two cores hash two weights at a time."""


def digest(*parts: object) -> str:
    """SHA-256 of the parts as JSON, which keeps their borders apart."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def tensor_bytes(tensor: ir.TensorProtocol) -> memoryview:
    """A weight's bytes as ONNX stores them (little-endian, C order), without a copy where it can be had."""
    if isinstance(tensor, ir.StringTensor):
        return memoryview(json.dumps([bytes(s).hex() for s in tensor.numpy().flatten()]).encode())
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


def _hash_nodes(graph: ir.Graph, hashed: dict[str, str], opsets: Mapping[str, int]) -> None:
    for node in in_order(graph):
        constant = node.attributes.get("value") if node.op_type == "Constant" else None
        if constant is not None and constant.type is ir.AttributeType.TENSOR:
            hashed[str(node.outputs[0].name)] = weight_hash(constant.as_tensor())
            continue
        attributes = [[name, _attribute(node.attributes[name], hashed, opsets)] for name in sorted(node.attributes)]
        domain = "" if node.domain == "ai.onnx" else node.domain
        inputs = ["" if v is None else hashed[str(v.name)] for v in node.inputs]
        call = digest("node", domain, node.op_type, opsets.get(domain, 1), attributes, inputs, len(node.outputs))
        for index, value in enumerate(node.outputs):
            hashed[str(value.name)] = digest("output", call, index)


def _attribute(attribute: ir.Attr, outer: Mapping[str, str], opsets: Mapping[str, int]) -> Any:
    kind, value = attribute.type, attribute.value
    if kind is ir.AttributeType.TENSOR:
        return ["tensor", weight_hash(value)]
    if kind is ir.AttributeType.GRAPH:
        return ["graph", _subgraph(value, outer, opsets)]
    if kind is ir.AttributeType.GRAPHS:
        return ["graphs", [_subgraph(g, outer, opsets) for g in value]]
    if isinstance(value, str | int):
        return [kind.name, value]
    if isinstance(value, float):
        return [kind.name, float(np.float32(value)).hex()]
    if isinstance(value, Iterable):
        return [kind.name, [float(np.float32(v)).hex() if isinstance(v, float) else str(v) for v in value]]
    return [kind.name, str(value)]


def _subgraph(graph: ir.Graph, outer: Mapping[str, str], opsets: Mapping[str, int]) -> str:
    """A loop or branch body; tensors that it takes from outside count by their hash."""
    hashed = dict(outer)
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            hashed[name] = weight_hash(value.const_value)
    for index, value in enumerate(graph.inputs):
        hashed[str(value.name)] = digest("body input", index, _type(value), _shape(value))
    _hash_nodes(graph, hashed, opsets)
    return digest("body", [hashed[str(v.name)] for v in graph.outputs])


def _type(value: ir.Value) -> str:
    return value.dtype.name if value.dtype is not None else str(value.type)


def _shape(value: ir.Value) -> list[int | str] | None:
    if value.shape is None:
        return None
    return [d if isinstance(d, int) else str(d.value) for d in value.shape]


def in_order(graph: ir.Graph) -> list[ir.Node]:
    """The graph's nodes so that each comes after those it reads from; files need not be sorted."""
    nodes = list(graph)
    made_here = {id(node) for node in nodes}
    state: dict[int, bool] = {}
    order: list[ir.Node] = []
    for root in nodes:
        stack = [(root, False)]
        while stack:
            node, ready = stack.pop()
            if ready:
                state[id(node)] = True
                order.append(node)
            elif id(node) not in state:
                state[id(node)] = False
                stack.append((node, True))
                sources = [v.producer() for v in _reads(node)]
                stack.extend((p, False) for p in sources if p is not None and id(p) in made_here and id(p) not in state)
    return order


def _reads(node: ir.Node) -> list[ir.Value]:
    """The values a node reads, those read inside its loop and branch bodies included."""
    reads = [v for v in node.inputs if v is not None]
    for attribute in node.attributes.values():
        bodies = (
            [attribute.value]
            if attribute.type is ir.AttributeType.GRAPH
            else list(attribute.value)
            if attribute.type is ir.AttributeType.GRAPHS
            else []
        )
        for body in bodies:
            for inner in body:
                reads.extend(_reads(inner))
    return reads
