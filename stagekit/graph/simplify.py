"""Simplification by onnxsim: constants folded, BatchNorm merged into convolutions, shapes resolved."""

from __future__ import annotations

from math import prod

import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph.model import PROTOBUF_LIMIT, Graph, bring_inside, from_proto
from stagekit.graph.shapes import inferred

LARGE = 2**18
"""Elements from which a matrix that only multiplies activations is left out while simplifying."""


def simplify(graph: Graph) -> Graph:
    """The same function with fewer nodes and with shapes on every tensor; input and output names stay.

    onnxsim computes some shapes of old operator sets wrongly and writes them down as constants. Where what it made
    contradicts the shapes that ``graph`` has, it is made again without folding constants.

    Raises:
        GraphError: onnxsim cannot process the graph, or the shape of an output is not known.
    """
    _ = graph.outputs  # onnxsim would only say that a field is missing
    try:
        simple = inferred(_simplify(graph, fold=True))
        if not _contradicts(simple, graph):
            return simple
    except GraphError:
        pass
    return inferred(_simplify(graph, fold=False))


def _contradicts(simple: Graph, graph: Graph) -> bool:
    before = {str(v.name): v.shape for node in graph.body for v in node.outputs}
    return any(
        isinstance(a, int) and isinstance(b, int) and a != b
        for node in simple.body
        for v in node.outputs
        if v.shape is not None and (known := before.get(str(v.name))) is not None and len(known) == len(v.shape)
        for a, b in zip(v.shape, known, strict=True)
    )


def _simplify(graph: Graph, fold: bool) -> Graph:
    """One run of onnxsim.

    Large matrices of MatMul and Gemm have nothing to be folded with. They are declared as inputs meanwhile, so
    that a model of a gigabyte is simplified without serialising it several times.
    """
    import onnxsim

    hollow = graph.edit()
    weights = _take_out(hollow.graph)
    if sum(v.const_value.nbytes for v in hollow.graph.initializers.values() if v.const_value) > PROTOBUF_LIMIT // 4:
        raise GraphError("too many bytes of convolution weights to simplify", where=graph.source)
    bring_inside(hollow)
    try:
        proto, _ = onnxsim.simplify(ir.to_proto(hollow), skip_constant_folding=not fold)
    except Exception as error:  # onnxsim raises whatever its C++ side throws
        raise GraphError(f"onnxsim cannot simplify it: {error}", where=graph.source) from error
    simple = from_proto(proto, graph.source)
    model = simple.model
    for value in [v for v in model.graph.inputs if v.name in weights]:
        model.graph.inputs.remove(value)
        value.const_value = weights[str(value.name)]
        model.graph.register_initializer(value)
    unused = [n for n, v in model.graph.initializers.items() if not v.uses() and not v.is_graph_output()]
    for name in unused:
        del model.graph.initializers[name]
    return graph.with_model(model)


def _take_out(graph: ir.Graph) -> dict[str, ir.TensorProtocol]:
    weights: dict[str, ir.TensorProtocol] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        users = {node.op_type for node, _ in value.uses()}
        if tensor is None or value.is_graph_output() or not users or not users <= {"MatMul", "Gemm"}:
            continue
        if prod(tensor.shape.numpy()) >= LARGE:
            weights[name] = tensor
            del graph.initializers[name]
            value.const_value = None
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            graph.inputs.append(value)
    return weights
