"""Nodes that do nothing once sizes are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import IdentityEliminationPass, RemoveUnusedNodesPass

from stagekit.graph.model import Graph


def without_idle_nodes(graph: Graph) -> Graph:
    """The same function without Identity nodes and without Resizes that keep the size.

    A network that may run at any size resizes wherever two sizes might differ; at the sizes of one place many of
    these are equal. Needs inferred shapes. Names of inputs and outputs stay.
    """
    model = graph.edit()
    for node in list(model.graph):
        if _keeps_size(node):
            (old,) = node.outputs
            new = ir.node("Identity", [node.inputs[0]], name=node.name)
            ir.convenience.replace_nodes_and_values(model.graph, node, [node], [new], [old], new.outputs)
    model = IdentityEliminationPass()(model).model
    model = RemoveUnusedNodesPass()(model).model
    return graph.with_model(model)


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
    scales = ir.convenience.get_const_tensor(node.inputs[2])
    return scales is not None and bool(np.all(scales.numpy() == 1))
