"""Nodes that do nothing once sizes are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from stagekit.graph.model import Graph


def without_idle_nodes(graph: Graph) -> Graph:
    """The same function without Identity nodes and without Resizes that keep the size.

    A network that may run at any size resizes wherever two sizes might differ; at the sizes of one place many of
    these are equal. Needs inferred shapes. Names of inputs and outputs stay.
    """
    model = graph.edit()
    for node in list(model.graph):
        if (node.op_type == "Identity" and not node.domain) or _keeps_size(node):
            _bypass(model.graph, node)
    RemoveUnusedNodesPass()(model)
    return graph.with_model(model)


def _bypass(graph: ir.Graph, node: ir.Node) -> None:
    """Takes a node out; its readers read what it reads. One that copies an input or output to an output stays."""
    source, result = node.inputs[0], node.outputs[0]
    if source is None:
        return
    if result.is_graph_output():
        if source.producer() is None or source.is_graph_output():
            return
        name, result.name = result.name, None
        source.name = name
    result.replace_all_uses_with(source, replace_graph_outputs=True)
    graph.remove(node, safe=True)


def _keeps_size(node: ir.Node) -> bool:
    """Whether a Resize gives every element back as it is: equal shapes, and a factor of exactly one."""
    if node.op_type != "Resize" or node.domain or node.inputs[0] is None:
        return False
    if node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize":
        return False
    before, after = node.inputs[0].shape, node.outputs[0].shape
    if before is None or after is None or list(before) != list(after):
        return False
    if any(not isinstance(d, int) and d.value is None for d in before):
        return False
    sizes = node.inputs[3] if len(node.inputs) > 3 else None
    if sizes is not None:
        return True
    # With factors, a size may stay because it was rounded down, while the samples still move.
    scales = ir.convenience.get_const_tensor(node.inputs[2]) if node.inputs[2] else None
    return scales is not None and bool(np.all(scales.numpy() == 1))
