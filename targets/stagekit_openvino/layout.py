"""Maps that enter and leave an engine channels last, as its convolutions have them.

OpenVINO's CPU plugin drops a transpose together with the reorder before it, where the two cancel. Behind a convolution
it sees no reorder: there it computes the transpose in the convolution's own order, at a tenth of memory's speed, and
then reorders the result as well (OpenVINO 2026.4; a third of the time of a ResNet-50 stage in int8). Behind a pooling
it does not. So a pooling over single pixels, which changes nothing, is put between; it costs one pass. The same
holds for integers that enter to be computed with in floats: without a pooling the plugin transposes the integers, and
reorders the floats back (a quarter of the time of a ResNet-50's SPMs in int8).
"""

from __future__ import annotations

import onnx_ir as ir

from stagekit.graph import Graph


def with_free_transposes(graph: Graph) -> Graph:
    """The same function with such a pooling behind the transpose of every such input, and before every transpose that
    ends in an output, but in half precision, which is not affected."""
    model = graph.edit()
    for entry in model.graph.inputs:
        transpose = _only_reader(entry, "Transpose", (0, 3, 1, 2))
        convert = _only_reader(transpose.outputs[0], "DequantizeLinear") if transpose else None
        if transpose and convert and not any(map(_computes_in_integers, convert.outputs[0].consumers())):
            convert.replace_input_with(0, _pooled(model.graph, transpose.outputs[0], transpose))
    for output in model.graph.outputs:
        last = output.producer()
        if last is None or not _is(last, "Transpose", (0, 2, 3, 1)):
            continue
        value = last.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer is None or "Pool" in producer.op_type or output.dtype not in POOLINGS:
            continue
        last.replace_input_with(0, _pooled(model.graph, value, producer))
    return graph.with_model(model)


def _is(node: ir.Node, kind: str, axes: tuple[int, ...] = ()) -> bool:
    return node.op_type == kind and tuple(node.attributes.get_ints("perm", ())) == axes


def _only_reader(value: ir.Value, kind: str, axes: tuple[int, ...] = ()) -> ir.Node | None:
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and _is(readers[0], kind, axes) else None


def _computes_in_integers(node: ir.Node) -> bool:
    """Whether a node's weights are quantised."""
    producer = node.inputs[1].producer() if len(node.inputs) > 1 and node.inputs[1] is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def _pooled(graph: ir.Graph, value: ir.Value, producer: ir.Node) -> ir.Value:
    """A value behind a pooling of single pixels."""
    assert value.dtype is not None
    pool = ir.node(POOLINGS[value.dtype], [value], {"kernel_shape": [1, 1]}, name=f"{value.name}/pixels")
    made = pool.outputs[0]
    made.name, made.type, made.shape = f"{value.name}/pixels", value.type, value.shape
    graph.insert_after(producer, pool)
    return made


POOLINGS = {
    ir.DataType.FLOAT: "AveragePool",  # a maximum would swallow NaN
    ir.DataType.UINT8: "MaxPool",
    ir.DataType.INT8: "MaxPool",
}
