"""A newer opset for graphs whose operators mean the same there."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from stagekit.graph import Graph

ONLY_WIDENED = frozenset(
    {"AveragePool", "Cast", "Constant", "ConstantOfShape", "DequantizeLinear", "Equal", "Flatten", "Identity"}
    | {"Pad", "QuantizeLinear", "ReduceMax", "ReduceMin", "Reshape", "Resize", "Shape", "Size", "Squeeze"}
    | {"Transpose", "Unsqueeze"}
)
"""Operators whose versions from 18 to 21 take more types, or have new attributes that change nothing by default."""


def raised(graph: Graph, opset: int) -> ir.Model | None:
    """A copy of the graph's model that imports a newer opset; ``None`` where an operator may have changed its meaning.

    Known for the opsets 18 to 21.
    """
    version = graph.model.opset_imports.get("", 0)
    if version < 18 or opset > 21:
        return None
    for node in graph.model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            continue
        changed = _since(node.op_type, version) != _since(node.op_type, opset)
        if changed and node.op_type not in ONLY_WIDENED:
            return None
    model = graph.edit()
    model.graph.opset_imports[""] = opset
    return model


def _since(operator: str, opset: int) -> int:
    """The opset in which an operator got the definition that it has in ``opset``; 0 where it has none."""
    try:
        return int(onnx.defs.get_schema(operator, opset, "").since_version)
    except onnx.defs.SchemaError:
        return 0
