"""Map graphs at token boundaries: the class token passes by, the other tokens become a grid and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph.model import Graph

END = 2**31 - 1


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """How tokens (batch, prefix + height * width, channels) lie in the image."""

    height: int
    width: int
    prefix: int


def over_tokens(graph: Graph, inputs: Mapping[str, TokenGrid], outputs: Mapping[str, str]) -> Graph:
    """The graph with some of its maps (batch, channels, h, w) as token sequences instead.

    Args:
        inputs: the inputs that become tokens; their prefix tokens are cut off.
        outputs: the outputs that become tokens, each with the input whose prefix tokens it takes over.

    Raises:
        GraphError: an input or output does not exist or is no map.
    """
    model = graph.edit()
    prefixes: dict[str, ir.Value | None] = {}
    for name, grid in inputs.items():
        taken_over = name in outputs.values()
        prefixes[name] = _tokens_in(model.graph, _find(model.graph.inputs, name, graph), grid, taken_over)
    for name, source in outputs.items():
        _tokens_out(model.graph, _find(model.graph.outputs, name, graph), inputs[source], prefixes[source])
    layouts = {**graph.layouts, **dict.fromkeys([*inputs, *outputs], "NTC")}
    return Graph(model, graph.source, layouts)


def _find(values: Sequence[ir.Value], name: str, graph: Graph) -> ir.Value:
    value = next((v for v in values if v.name == name), None)
    if value is None or value.shape is None or len(value.shape) != 4 or value.dtype is None:
        raise GraphError(f"expected a map called {name!r} at the edge of the graph", where=graph.source)
    return value


def _channels(value: ir.Value) -> int:
    assert value.shape is not None
    return int(value.shape[1])  # type: ignore[arg-type]  # a bound graph has numbers everywhere but in the batch


def _tokens_in(graph: ir.Graph, old: ir.Value, grid: TokenGrid, taken_over: bool) -> ir.Value | None:
    """Puts a token input in place of a map input; returns its prefix tokens if an output takes them over."""
    name, channels = str(old.name), _channels(old)
    assert old.dtype is not None
    assert old.shape is not None
    tokens = ir.val(name, old.dtype, ir.Shape([old.shape[0], grid.prefix + grid.height * grid.width, channels]))
    nodes: list[ir.Node] = []
    cells, prefix = tokens, None
    if grid.prefix:
        parts = [("prefix", 0, grid.prefix), ("cells", grid.prefix, END)]
        for part, start, end in parts if taken_over else parts[1:]:
            bounds = [
                _constant(graph, f"{name}/{part}/{k}", [v]) for k, v in (("start", start), ("end", end), ("axis", 1))
            ]
            nodes.append(_node("Slice", [tokens, *bounds], f"{name}/{part}", old))
        cells = nodes[-1].outputs[0]
        prefix = nodes[0].outputs[0] if taken_over else None
    nodes.append(_node("Transpose", [cells], f"{name}/transposed", old, {"perm": [0, 2, 1]}))
    shape = _constant(graph, f"{name}/map/shape", [0, channels, grid.height, grid.width])
    nodes.append(_node("Reshape", [nodes[-1].outputs[0], shape], f"{name}/map", old))
    value = nodes[-1].outputs[0]
    value.shape = old.shape
    first = next(iter(graph))
    old.name = f"{name}/unused"
    old.replace_all_uses_with(value, replace_graph_outputs=True)
    graph.inputs[list(graph.inputs).index(old)] = tokens
    graph.insert_before(first, nodes)
    return prefix


def _tokens_out(graph: ir.Graph, old: ir.Value, grid: TokenGrid, prefix: ir.Value | None) -> None:
    name, channels = str(old.name), _channels(old)
    assert old.shape is not None
    old.name = f"{name}/map"
    shape = _constant(graph, f"{name}/flat/shape", [0, channels, grid.height * grid.width])
    nodes = [_node("Reshape", [old, shape], f"{name}/flat", old)]
    nodes.append(_node("Transpose", [nodes[-1].outputs[0]], f"{name}/cells", old, {"perm": [0, 2, 1]}))
    if prefix is not None:
        nodes.append(_node("Concat", [prefix, nodes[-1].outputs[0]], f"{name}/joined", old, {"axis": 1}))
    value = nodes[-1].outputs[0]
    value.name = name
    value.shape = ir.Shape([old.shape[0], grid.prefix + grid.height * grid.width, channels])
    graph.outputs[list(graph.outputs).index(old)] = value
    graph.extend(nodes)


def _node(
    op: str,
    inputs: Sequence[ir.Value],
    name: str,
    like: ir.Value,
    attributes: Mapping[str, int | list[int]] | None = None,
) -> ir.Node:
    node = ir.node(op, inputs, attributes, name=name)
    node.outputs[0].name = name
    node.outputs[0].type = like.type
    return node


def _constant(graph: ir.Graph, name: str, values: Sequence[int]) -> ir.Value:
    tensor = ir.tensor(np.asarray(values, np.int64), name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape([len(values)]), type=ir.TensorType(ir.DataType.INT64)
    )
    graph.register_initializer(value)
    return value
