"""Changing the form of a graph's edges: names, element types, axis order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import onnx_ir as ir

from stagekit.errors import UsageError
from stagekit.graph.model import IR_DTYPES, Graph
from stagekit.graph.spec import TensorSpec


def with_edges(graph: Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Graph:
    """The graph with Transpose and Cast nodes at its edges, so that it takes and gives the wanted forms.

    Args:
        inputs: one a graph input, in order; axes are compared with the graph's ``layouts``, or where those say
            nothing, by shape.
        outputs: likewise.

    A conversion of type alone is a Cast; of axes alone a Transpose. Quantised forms are not made here.

    Raises:
        UsageError: the counts differ, or a shape is not a reordering of the graph's own.
    """
    if len(inputs) != len(graph.inputs) or len(outputs) != len(graph.outputs):
        raise UsageError("the number of edges differs from the graph's", where=graph.source)
    model = graph.edit()
    places = {str(value.name): index for index, value in enumerate(model.graph.inputs)}  # weights may be listed too
    layouts = dict(graph.layouts)
    for wanted, have in zip(inputs, graph.inputs, strict=True):
        _convert_input(model.graph, places[have.name], wanted, _native(wanted, have))
        layouts[have.name] = wanted.layout
    for index, (wanted, have) in enumerate(zip(outputs, graph.outputs, strict=True)):
        _convert_output(model.graph, index, wanted, _native(wanted, have))
        layouts[have.name] = wanted.layout
    return Graph(model, graph.source, layouts)


PLAIN_LAYOUTS = {"NHWC": "NCHW"}
"""The axis order in which a graph computes, for each order in which an edge may be stored."""


def _permutation(stored: str, native: str) -> list[int]:
    return [stored.index(axis) for axis in native]


def _native(wanted: TensorSpec, have: TensorSpec) -> str:
    """The order of axes in which the graph itself has this edge, in the letters of ``wanted``."""
    plain = have.layout or _guessed(wanted, have)
    same_axes = sorted(plain) == sorted(wanted.layout)
    if not same_axes or not _agree((wanted.transposed(plain) if plain else wanted).shape, have.shape):
        raise UsageError(f"the wanted form {wanted} does not fit the graph's {have}", where=have.name)
    return plain


def _guessed(wanted: TensorSpec, have: TensorSpec) -> str:
    """The order of axes of an edge whose graph does not name them, from the shapes.

    Raises:
        UsageError: both orders fit, as in a map of 64 channels, 64 high and 64 wide.
    """
    plain = PLAIN_LAYOUTS.get(wanted.layout, wanted.layout)
    if plain == wanted.layout:
        return plain
    stored_fits, plain_fits = wanted.shape == have.shape, wanted.transposed(plain).shape == have.shape
    if stored_fits and plain_fits:
        raise UsageError(
            f"the shape {have.shape} does not tell whether the graph's axes are {plain} or {wanted.layout}",
            where=have.name,
            remedy="name them in the graph's layouts",
        )
    if stored_fits or plain_fits:
        return wanted.layout if stored_fits else plain
    return wanted.layout if _agree(wanted.shape, have.shape) else plain


def _agree(a: Sequence[int | str], b: Sequence[int | str]) -> bool:
    return len(a) == len(b) and all(
        x == y or isinstance(x, str) or isinstance(y, str) for x, y in zip(a, b, strict=True)
    )


def _convert_input(graph: ir.Graph, index: int, wanted: TensorSpec, native: str) -> None:
    old = graph.inputs[index]
    if native == wanted.layout and IR_DTYPES[wanted.dtype] == old.dtype:
        return
    name = str(old.name)
    if old.dtype is None:
        raise UsageError("its element type is not known", where=name)
    new = ir.val(name, IR_DTYPES[wanted.dtype], ir.Shape(wanted.shape))
    first = _first_node(graph)
    value = new
    nodes: list[ir.Node] = []
    if native != wanted.layout:
        nodes.append(ir.node("Transpose", [value], {"perm": _permutation(wanted.layout, native)}))
        value = nodes[-1].outputs[0]
        value.name, value.dtype = _fresh(graph, f"{name}/transposed"), IR_DTYPES[wanted.dtype]
    if new.dtype != old.dtype:
        nodes.append(ir.node("Cast", [value], {"to": int(old.dtype)}))
        value = nodes[-1].outputs[0]
        value.name, value.dtype = _fresh(graph, f"{name}/cast"), old.dtype
    value.shape = old.shape
    old.name = _fresh(graph, f"{name}/inner")
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.inputs[index] = new
    graph.insert_before(first, nodes)


def _convert_output(graph: ir.Graph, index: int, wanted: TensorSpec, native: str) -> None:
    old = graph.outputs[index]
    target = IR_DTYPES[wanted.dtype]
    if native == wanted.layout and target == old.dtype:
        return
    name = str(old.name)
    old.name = _fresh(graph, f"{name}/inner")
    value = old
    # The Cast comes last: a vendor's compiler folds a Transpose into a Cast that follows it, not one before it.
    if native != wanted.layout:
        node = ir.node("Transpose", [value], {"perm": _permutation(native, wanted.layout)})
        graph.append(node)
        value = node.outputs[0]
        value.name, value.type = _fresh(graph, f"{name}/transposed"), old.type
    if target != old.dtype:
        node = ir.node("Cast", [value], {"to": int(target)})
        graph.append(node)
        value = node.outputs[0]
        value.dtype = target
    value.name = name
    value.shape = ir.Shape(wanted.shape)
    graph.outputs[index] = value


def _fresh(graph: ir.Graph, name: str) -> str:
    """``name``, or with a number behind it if the graph has it already, as when edges are converted twice."""
    taken = {v.name for node in graph.all_nodes() for v in node.outputs} | {v.name for v in graph.inputs}
    taken |= set(graph.initializers)
    return next(fresh for n in count() if (fresh := f"{name}{n or ''}") not in taken)


def _first_node(graph: ir.Graph) -> ir.Node:
    return next(iter(graph))
