"""Edges in the form in which ONNX Runtime's float convolutions compute, so that maps cross them as they are.

A map lies there in groups of 8 or 16 channels (the width of the processor's vectors), each group channels last and
the last group filled up: ``NCHWc``. The optimiser puts a ReorderInput where a map enters this form and a ReorderOutput
where it leaves it. At a blocked edge the opposite node is put before or behind, and where the two meet both go.
What works on single values or splits a map between groups is let into the form first: the optimiser leaves it outside,
between two reorders, and an SPM has nine such nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from stagekit.cpu import instruction_sets
from stagekit.graph.spec import BLOCKED, TensorSpec
from stagekit_onnxruntime.engine import flat_shape

DOMAIN = "com.microsoft.nchwc"

CHANNELS = 4
"""ReorderInput takes multiples of it."""

POINTWISE = ("Add", "Mul", "Relu")
"""Operators that compute each value from those at its place."""


def blocked_form(spec: TensorSpec) -> TensorSpec | None:
    """A tensor in the blocked form; ``None`` where it is no map of floats, or there are no such kernels for it."""
    if spec.layout != "NCHW" or spec.dtype != "float32" or not all(isinstance(d, int) for d in spec.shape[1:]):
        return None
    size = group_size()
    return spec.blocked(size) if size and int(spec.shape[1]) % CHANNELS == 0 else None


@cache
def group_size() -> int:
    """Channels in a group on this processor, as ``MlasNchwcGetBlockSize`` has it; 0 where that is not known."""
    sets = instruction_sets().split("+")
    return 16 if "avx512f" in sets else 8 if "avx" in sets else 0


def block_edges(model: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Gives an optimised model, whose edges are plain, the blocked ones among those wanted, and spares it reorders."""
    size = group_size()
    if not size:
        return
    graph = model.graph
    for index, spec in enumerate(inputs):
        if spec.layout == BLOCKED:
            _block_input(graph, index, spec)
    for index, spec in enumerate(outputs):
        if spec.layout == BLOCKED:
            _block_output(graph, index, spec)
    for node in list(graph):
        _let_in(graph, node, size)
    for node in list(graph):
        _cancel(graph, node)
    model.opset_imports.setdefault(DOMAIN, 1)
    RemoveUnusedNodesPass()(model)


def _block_input(graph: ir.Graph, index: int, spec: TensorSpec) -> None:
    plain = graph.inputs[index]
    assert plain.shape is not None
    name = str(plain.name)
    given = ir.val(name, plain.dtype, ir.Shape([plain.shape[0], *flat_shape(spec)[1:]]))
    reorder = _reorder_output(given, int(plain.shape[1]))  # type: ignore[arg-type]  # blocked_form saw a number
    reorder.outputs[0].shape = plain.shape
    plain.name = f"{name}/inner"
    reorder.outputs[0].name = f"{name}/plain"
    plain.replace_all_uses_with(reorder.outputs[0], replace_graph_outputs=True)
    graph.inputs[index] = given
    first = next(iter(graph), None)
    graph.insert_before(first, reorder) if first is not None else graph.append(reorder)


def _block_output(graph: ir.Graph, index: int, spec: TensorSpec) -> None:
    plain = graph.outputs[index]
    assert plain.shape is not None
    name = str(plain.name)
    plain.name = f"{name}/plain"
    reorder = ir.node("ReorderInput", [plain], domain=DOMAIN)
    graph.append(reorder)
    made = reorder.outputs[0]
    made.name, made.type, made.shape = name, plain.type, ir.Shape([plain.shape[0], *flat_shape(spec)[1:]])
    graph.outputs[index] = made


def _let_in(graph: ir.Graph, node: ir.Node, size: int) -> None:
    """Moves the ReorderOutputs before a node behind it, where it computes the same in groups of channels."""
    values = [value for value in node.inputs if value is not None]
    maps = values[:1] if node.op_type == "Split" else values
    inner = [_blocked(value) for value in maps]
    shapes = [value.shape for value in maps]
    if node.domain or not inner or None in inner or any(s is None or s != shapes[0] for s in shapes):
        return
    if node.op_type == "Split":
        channels = [0 if out.shape is None else out.shape[1] for out in node.outputs]
        if node.attributes.get_int("axis", 0) != 1 or any(
            not isinstance(c, int) or c % size or not c for c in channels
        ):
            return
    elif node.op_type not in POINTWISE:
        return
    for index, value in enumerate(inner):
        node.replace_input_with(index, value)
    for out in node.outputs:
        shape = out.shape or shapes[0]
        reorder = _reorder_output(out, int(shape[1]))  # type: ignore[arg-type,index]
        plain = reorder.outputs[0]
        plain.shape = shape
        name, out.name, out.shape = out.name, f"{out.name}/blocked", None
        out.replace_all_uses_with(plain, replace_graph_outputs=True)
        reorder.replace_input_with(0, out)
        plain.name = name
        graph.insert_after(node, reorder)


def _cancel(graph: ir.Graph, node: ir.Node) -> None:
    """Lets the readers of a ReorderInput that follows a ReorderOutput read what was there before both."""
    source = node.inputs[0] if _is_reorder(node, "ReorderInput") else None
    inner = _blocked(source) if source is not None else None
    if inner is None:
        return
    made = node.outputs[0]
    if made.is_graph_output():
        if inner.is_graph_output() or inner.is_graph_input():
            return
        name, made.name = made.name, f"{made.name}/unused"
        inner.shape, inner.type = made.shape, made.type
        made.replace_all_uses_with(inner, replace_graph_outputs=True)
        inner.name = name
    else:
        made.replace_all_uses_with(inner)


def _blocked(value: ir.Value) -> ir.Value | None:
    """What a ReorderOutput made a plain map from."""
    node = value.producer()
    return node.inputs[0] if node is not None and _is_reorder(node, "ReorderOutput") else None


def _is_reorder(node: ir.Node, op: str) -> bool:
    """Of a map with its channels first; there are others."""
    return node.op_type == op and node.attributes.get_int("channels_last", 0) == 0


def _reorder_output(value: ir.Value, channels: int) -> ir.Node:
    node = ir.node("ReorderOutput", [value], {"channels": channels}, domain=DOMAIN)
    node.outputs[0].type = value.type
    return node
