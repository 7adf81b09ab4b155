"""What a graph costs: multiply-accumulates, parameters, bytes."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from stagekit.graph.model import Graph


def node_macs(node: ir.Node, batch: int = 1) -> int:
    """Multiply-accumulates of one node; 0 for operators without products of sums.

    Counted: Conv, ConvTranspose, MatMul, Gemm and their integer forms. Symbolic dimensions count as ``batch``.
    """
    op = node.op_type
    if op in ("Conv", "ConvInteger", "QLinearConv"):
        weight = _shape(node.inputs[3 if op == "QLinearConv" else 1], batch)
        out = _shape(node.outputs[0], batch)
        return prod(out) * prod(weight[1:]) if weight and out else 0
    if op == "ConvTranspose":
        weight, data = _shape(node.inputs[1], batch), _shape(node.inputs[0], batch)
        return prod(data) * prod(weight[1:]) if weight and data else 0
    if op in ("MatMul", "MatMulInteger"):
        left, out = _shape(node.inputs[0], batch), _shape(node.outputs[0], batch)
        return prod(out) * left[-1] if left and out else 0
    if op == "Gemm":
        left, out = _shape(node.inputs[0], batch), _shape(node.outputs[0], batch)
        transposed = node.attributes.get_int("transA", 0)
        return prod(out) * left[0 if transposed else 1] if left and out else 0
    return 0


def macs(graph: Graph, batch: int = 1) -> int:
    """Multiply-accumulates of one call with ``batch`` images; needs inferred shapes."""
    return sum(node_macs(node, batch) for node in graph.body)


def parameters(graph: Graph) -> int:
    """Numbers in floating-point and 8-bit weights (index and shape constants do not count)."""
    return sum(
        v.const_value.size
        for v in graph.body.initializers.values()
        if v.const_value is not None and v.const_value.dtype not in (ir.DataType.INT64, ir.DataType.INT32)
    )


def _shape(value: ir.Value | None, batch: int) -> list[int]:
    if value is None:
        return []
    shape = value.const_value.shape if value.const_value is not None else value.shape
    return [] if shape is None else [d if isinstance(d, int) else _symbolic(d.value, batch) for d in shape]


def _symbolic(dim: str | None, batch: int) -> int:
    """The size of a symbolic dimension: the batch, or a multiple of it such as ``batch*12`` heads."""
    _, _, factor = (dim or "").partition("*")
    return batch * int(factor) if factor.isdigit() else batch
