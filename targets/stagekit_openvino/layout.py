"""Maps that leave an engine channels last, as its convolutions made them.

OpenVINO's CPU plugin drops a transpose together with the reorder before it, where the two cancel. Behind a convolution
it sees no reorder: there it computes the transpose in the convolution's own order, at a tenth of memory's speed, and
then reorders the result as well (OpenVINO 2026.4; a third of the time of a ResNet-50 stage in int8). Behind a pooling
it does not. So a pooling over single pixels, which changes nothing, is put between; it costs one pass.
"""

from __future__ import annotations

import onnx_ir as ir

from stagekit.graph import Graph

CHANNELS_LAST = (0, 2, 3, 1)


def with_free_transposes(graph: Graph) -> Graph:
    """The same function with such a pooling before every transpose that ends in an output, but in half precision,
    which is not affected."""
    model = graph.edit()
    for output in model.graph.outputs:
        transpose = output.producer()
        if transpose is None or transpose.op_type != "Transpose":
            continue
        if tuple(transpose.attributes.get_ints("perm", ())) != CHANNELS_LAST:
            continue
        value = transpose.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer is None or "Pool" in producer.op_type or output.dtype not in POOLINGS:
            continue
        pool = ir.node(POOLINGS[output.dtype], [value], {"kernel_shape": [1, 1]}, name=f"{transpose.name}/pixels")
        made = pool.outputs[0]
        made.name, made.type, made.shape = f"{value.name}/pixels", value.type, value.shape
        model.graph.insert_before(transpose, pool)
        transpose.replace_input_with(0, made)
    return graph.with_model(model)


POOLINGS = {
    ir.DataType.FLOAT: "AveragePool",  # a maximum would swallow NaN
    ir.DataType.UINT8: "MaxPool",
    ir.DataType.INT8: "MaxPool",
}
