"""A head's logits to a label map, inside the graph."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph.model import Graph


def with_labels(graph: Graph, height: int, width: int) -> Graph:
    """The graph with ``labels`` (batch, height, width) uint8 in place of ``logits`` (batch, classes, h, w).

    Logits are resized bilinearly (half-pixel centres) before the arg max, as segmentation toolkits evaluate.

    Raises:
        GraphError: it has not one output that is a map.
    """
    model = graph.edit()
    body = model.graph
    if len(body.outputs) != 1 or body.outputs[0].shape is None or len(body.outputs[0].shape) != 4:
        raise GraphError("expected logits (batch, classes, h, w) as the only output", where=graph.source)
    logits = body.outputs[0]
    assert logits.shape is not None
    classes = logits.shape[1]
    nodes: list[ir.Node] = []
    value = logits
    if (logits.shape[2], logits.shape[3]) != (height, width):
        factors = [_scale(int(logits.shape[2]), height), _scale(int(logits.shape[3]), width)]  # type: ignore[arg-type]  # bound: numbers
        scales = ir.tensor(np.asarray([1.0, 1.0, *factors], np.float32), name="labels/scales")
        constant = ir.Value(name=scales.name, const_value=scales, shape=ir.Shape([4]), type=ir.TensorType(scales.dtype))
        body.register_initializer(constant)
        attributes = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
        nodes.append(ir.node("Resize", [value, None, constant], attributes, name="labels/resize"))
        value = nodes[-1].outputs[0]
        value.name, value.type = "labels/resized", logits.type
        value.shape = ir.Shape([logits.shape[0], classes, height, width])
    nodes.append(ir.node("ArgMax", [value], {"axis": 1, "keepdims": 0}, name="labels/argmax"))
    index = nodes[-1].outputs[0]
    index.name, index.type = "labels/index", ir.TensorType(ir.DataType.INT64)
    nodes.append(ir.node("Cast", [index], {"to": int(ir.DataType.UINT8)}, name="labels/cast"))
    labels = nodes[-1].outputs[0]
    labels.name, labels.type = "labels", ir.TensorType(ir.DataType.UINT8)
    index.shape = labels.shape = ir.Shape([logits.shape[0], height, width])
    body.extend(nodes)
    body.outputs[0] = labels
    return Graph(model, graph.source, {**graph.layouts, "labels": "NHW"})


def _scale(before: int, after: int) -> np.float32:
    """The factor from one size to another, such that runtimes, which round ``before * factor`` down, arrive there."""
    factor = np.float32(after / before)
    return factor if int(np.float32(before) * factor) >= after else np.nextafter(factor, np.float32(np.inf))
