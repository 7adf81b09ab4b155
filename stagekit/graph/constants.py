"""Constants that passes add to a graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def add_constant(graph: ir.Graph, name: str, array: np.ndarray[Any, Any]) -> ir.Value:
    """A new initializer with these values, of the array's own element type; the name must be free."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    graph.register_initializer(value)
    return value


def weight_values(node: ir.Node, index: int) -> np.ndarray[Any, Any]:
    """The values of a constant that a node reads, as float64.

    Raises:
        ValueError: it is not a constant.
    """
    tensor = ir.convenience.get_const_tensor(value) if (value := node.inputs[index]) is not None else None
    if tensor is None:
        raise ValueError(f"input {index} of {node.name} is not a constant")
    return tensor.numpy().astype(np.float64)


def replace_weight(graph: ir.Graph, node: ir.Node, index: int, array: np.ndarray[Any, Any], step: str) -> None:
    """Gives one reader of a constant other values, as float32; whoever else reads it keeps what it had.

    Args:
        index: of the node's input.
        step: what changed it, for the new constant's name.
    """
    value = node.inputs[index]
    assert value is not None
    fresh = add_constant(graph, f"{value.name}/{node.name}/{step}", np.ascontiguousarray(array, np.float32))
    node.replace_input_with(index, fresh)
