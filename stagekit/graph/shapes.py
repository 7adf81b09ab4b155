"""Fixing dimensions and inferring shapes."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx_ir as ir
from onnx.shape_inference import InferenceError, infer_shapes

from stagekit.errors import GraphError
from stagekit.graph.fingerprint import bodies
from stagekit.graph.model import Graph, bring_inside
from stagekit.graph.spec import BATCH as BATCH


def bind(graph: Graph, shapes: Mapping[str, tuple[int | str, ...]]) -> Graph:
    """The graph with the given input shapes; ``"batch"`` stays symbolic, everything else becomes a number.

    ONNX's own inference loses sight of a symbolic batch behind Shape, Gather and Reshape. Here shapes are
    inferred twice, with two sizes of batch, and what differs between the two depends on the batch. Where no input
    has a symbolic batch, once is enough.

    Args:
        shapes: by input name; inputs that are not named keep their shape.

    Raises:
        GraphError: an input does not exist or cannot take the shape, or shapes do not fit together.
    """
    known = {s.name: s for s in graph.inputs}
    for name, shape in shapes.items():
        have = known.get(name)
        if have is None:
            raise GraphError(f"it has no input {name!r}, only {', '.join(known)}", where=graph.source)
        clash = len(have.shape) != len(shape) or any(
            isinstance(h, int) and isinstance(w, int) and h != w for h, w in zip(have.shape, shape, strict=True)
        )
        if clash:
            raise GraphError(f"its input {have} cannot take the shape {shape}", where=graph.source)
    open_batch = any(BATCH in shape for shape in shapes.values())
    two, *more = (_inferred(graph, shapes, batch) for batch in ((2, 3) if open_batch else (2,)))
    three = more[0] if more else two
    model = graph.edit()
    for value in model.graph.inputs:
        if str(value.name) in shapes:
            value.shape = ir.Shape(shapes[str(value.name)])
    for node in model.graph:
        for value in node.outputs:
            name = str(value.name)
            value.shape = _merged(two.get(name), three.get(name))
            if value.type is None and name in two:
                value.type = two[name].type
        for body in bodies(node):
            _forget(body)
    return graph.with_model(model)


def inferred(graph: Graph) -> Graph:
    """The graph with types and shapes on every tensor; a symbolic first dimension of an input is its batch."""
    return bind(
        graph,
        {
            s.name: tuple(BATCH if i == 0 and isinstance(d, str) else d for i, d in enumerate(s.shape))
            for s in graph.inputs
        },
    )


SMALL = 1024
"""Bytes up to which a weight may be a shape or an axis, and is shown to the inference with its values."""


def _inferred(graph: Graph, shapes: Mapping[str, tuple[int | str, ...]], batch: int) -> dict[str, ir.Value]:
    """All values with their inferred shapes when the batch is ``batch``."""
    model = graph.edit()
    for value in model.graph.inputs:
        shape = shapes.get(str(value.name))
        if shape is not None:
            value.shape = ir.Shape([batch if d == BATCH else d for d in shape])
    # Shapes that an exporter wrote for other input sizes must not contradict the new ones.
    _forget(model.graph)
    for name, value in list(model.graph.initializers.items()):
        tensor = value.const_value
        if tensor is not None and tensor.nbytes > SMALL and not value.is_graph_output():
            del model.graph.initializers[name]
            value.const_value = None
            value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
            model.graph.inputs.append(value)
    bring_inside(model)
    proto = ir.to_proto(model)
    found = _by_onnx(proto, graph.source)
    if not all(map(_known, found.values())) and _count_axes_from_the_front(proto, found):
        found = _by_onnx(proto, graph.source)
    if not all(map(_known, found.values())) and all(map(_known, model.graph.inputs)):
        better = _symbolically(proto)
        found = {name: v if _known(v) else better.get(name, v) for name, v in found.items()}
    return found


def _by_onnx(proto: onnx.ModelProto, source: str) -> dict[str, ir.Value]:
    """Values as ONNX's own inference sees them."""
    try:
        return _values(infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True))
    except InferenceError as error:
        # The lenient mode passes over a node that it cannot follow; that is right only if the rest was found.
        found = _values(infer_shapes(proto, check_type=False, strict_mode=False, data_prop=True))
        if not all(_known(found.get(output.name)) for output in proto.graph.output):
            raise GraphError(f"shapes do not fit together: {error}", where=source) from error
        return found


def _count_axes_from_the_front(proto: onnx.ModelProto, found: Mapping[str, ir.Value]) -> bool:
    """Rewrites the negative axes of Concat, at which ONNX's inference loses the numbers in a computed shape."""
    changed = False
    for node in (n for n in proto.graph.node if n.op_type == "Concat"):
        value = found.get(node.output[0])
        for attribute in node.attribute:
            if attribute.name == "axis" and attribute.i < 0 and value is not None and value.shape is not None:
                attribute.i += len(value.shape)
                changed = True
    return changed


def _symbolically(proto: onnx.ModelProto) -> dict[str, ir.Value]:
    """Values as ONNX Runtime's inference sees them; it follows shapes computed by old operators too."""
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        return _values(SymbolicShapeInference.infer_shapes(proto, int_max=2**31 - 1))
    except Exception:  # it raises bare ones for what it cannot follow; the shapes then stay unknown
        return {}


def _known(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and all(isinstance(d, int) for d in value.shape)


def _values(proto: onnx.ModelProto) -> dict[str, ir.Value]:
    return {str(v.name): v for node in ir.from_proto(proto).graph for v in node.outputs}


def _forget(graph: ir.Graph) -> None:
    """Drops the shapes of everything that a node makes."""
    for node in graph.all_nodes():
        for value in node.outputs:
            value.shape = None


def _merged(two: ir.Value | None, three: ir.Value | None) -> ir.Shape | None:
    if two is None or three is None or two.shape is None or three.shape is None or len(two.shape) != len(three.shape):
        return None
    dims: list[int | str | None] = []
    for a, b in zip(two.shape, three.shape, strict=True):
        if not isinstance(a, int) or not isinstance(b, int):
            dims.append(None)
        elif a == b:
            dims.append(a)
        else:
            dims.append(BATCH if (a, b) == (2, 3) else f"{BATCH}*{a // 2}" if a * 3 == b * 2 else None)
    return ir.Shape(dims)
