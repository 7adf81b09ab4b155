"""Maps that enter and leave an engine channels last, as its convolutions have them.

OpenVINO's CPU plugin drops a transpose together with the reorder before it, where the two cancel. Behind a convolution
it sees no reorder: there it computes the transpose in the convolution's own order, at a tenth of memory's speed, and
then reorders the result as well (OpenVINO 2026.4; a third of the time of a ResNet-50 stage in int8). Behind a pooling
it does not. So a pooling over single pixels, which changes nothing, is put between; it costs one pass. The same
holds for integers that enter to be computed with in floats: without a pooling the plugin transposes the integers, and
reorders the floats back (a quarter of the time of a ResNet-50's SPMs in int8).

A map that leaves in half precision behind a convolution is written three times: the convolution's halves, the same in
f32, halves again. The plugin joins the conversion, were it of up to six axes, to a kernel of its own, which reads f32;
with seven axes it finds that there is nothing to convert. That, too, leaves the pooling's pass alone.
"""

from __future__ import annotations

import onnx_ir as ir

from stagekit.graph import Graph


def with_free_transposes(graph: Graph) -> Graph:
    """The same function with such a pooling behind the transpose of every such input, and before every
    transpose that ends in an output."""
    model = graph.edit()
    for entry in model.graph.inputs:
        transpose = _only_reader(entry, "Transpose", (0, 3, 1, 2))
        convert = _only_reader(transpose.outputs[0], "DequantizeLinear") if transpose else None
        if transpose and convert and not any(map(_computes_in_integers, convert.outputs[0].consumers())):
            convert.replace_input_with(0, _pooled(model.graph, transpose.outputs[0], transpose))
    for index, output in enumerate(model.graph.outputs):
        last = output.producer()
        cast = last if last is not None and last.op_type == "Cast" and output.dtype == ir.DataType.BFLOAT16 else None
        transpose = _producer(cast) if cast is not None else last
        if transpose is None or not _is(transpose, "Transpose", (0, 2, 3, 1)):
            continue
        value, source = transpose.inputs[0], _producer(transpose)
        if value is None or source is None or (cast is not None and not _convolved(source)):
            continue
        if "Pool" not in source.op_type and value.dtype in POOLINGS:
            transpose.replace_input_with(0, _pooled(model.graph, value, source))
        if cast is not None:
            _cast_seven_axes(model.graph, cast, index)
    return graph.with_model(model)


def _cast_seven_axes(graph: ir.Graph, cast: ir.Node, index: int) -> None:
    """Puts axes before a conversion that ends in an output, and takes them away behind it."""
    old, axes = cast.outputs[0], ir.node("Constant", [], {"value_ints": [0, 1, 2]})
    widened = ir.node("Unsqueeze", [cast.inputs[0], axes.outputs[0]])
    narrowed = ir.node("Squeeze", [old, axes.outputs[0]])
    given = narrowed.outputs[0]
    given.name, given.type, given.shape = old.name, old.type, old.shape
    old.name, old.shape = f"{old.name}/seven", None
    cast.replace_input_with(0, widened.outputs[0])
    graph.insert_before(cast, [axes, widened])
    graph.insert_after(cast, narrowed)
    graph.outputs[index] = given


def _producer(node: ir.Node) -> ir.Node | None:
    return node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None


def _convolved(node: ir.Node) -> bool:
    """Whether it is a pooling or a convolution, or becomes part of one: a sum with it, then an activation."""
    if node.op_type in ("Relu", "Clip"):
        node = _producer(node) or node
    if node.op_type == "Add":
        return any(value is not None and _made_by(value, "Conv") for value in node.inputs)
    return node.op_type == "Conv" or "Pool" in node.op_type


def _computes_in_integers(node: ir.Node) -> bool:
    """Whether a node's weights are quantised."""
    return len(node.inputs) > 1 and node.inputs[1] is not None and _made_by(node.inputs[1], "DequantizeLinear")


def _made_by(value: ir.Value, kind: str) -> bool:
    producer = value.producer()
    return producer is not None and producer.op_type == kind


def _is(node: ir.Node, kind: str, axes: tuple[int, ...] = ()) -> bool:
    return node.op_type == kind and tuple(node.attributes.get_ints("perm", ())) == axes


def _only_reader(value: ir.Value, kind: str, axes: tuple[int, ...] = ()) -> ir.Node | None:
    readers = value.consumers()
    return readers[0] if len(readers) == 1 and _is(readers[0], kind, axes) else None


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
