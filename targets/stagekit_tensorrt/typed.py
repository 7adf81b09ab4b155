"""A graph as TensorRT's parser takes it: sizes fixed where one is enough, bytes cast first, types final.

What comes out is the exact content of the ONNX file that the builder is given; ONNX Runtime can run it as well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import onnx_ir as ir

from stagekit.graph import Graph, TensorSpec, with_edges
from stagekit.graph.shapes import bind
from stagekit.target import Profile
from stagekit_tensorrt.config import BuildConfig, build_config, float_precision
from stagekit_tensorrt.halves import in_half

BYTES = ir.DataType.UINT8
LAYOUT_ONLY = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True, slots=True)
class Plan:
    """What the builder is given."""

    graph: Graph
    config: BuildConfig

    def node_counts(self) -> Counter[str]:
        """How often each operator occurs."""
        return Counter(node.op_type for node in self.graph.body)


def plan(graph: Graph, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], profile: Profile) -> Plan:
    """The typed graph and the build configuration for a graph with these edge formats.

    With a single batch size the graph is bound to it, since kernels for a fixed size are quicker.

    Raises:
        UsageError: the profile or a format makes no sense.
        CompileError: the graph cannot be written in the profile's types.
    """
    typed = _typed(graph, tuple(inputs), tuple(outputs), profile.batch, float_precision(profile))
    return Plan(typed, build_config(typed.inputs, profile))


@lru_cache(maxsize=1)  # a graph is looked at, and then built
def _typed(
    graph: Graph, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], batches: tuple[int, ...], floats: str
) -> Graph:
    if len(batches) == 1:
        graph = _of_size(graph, *batches)
        inputs, outputs = (tuple(spec.bind(batch=batches[0]) for spec in edges) for edges in (inputs, outputs))
    typed = named(bytes_cast_first(with_edges(graph, inputs, outputs)))
    return typed if floats == "f32" else in_half(typed, floats)


@lru_cache(maxsize=1)  # likewise, with other forms of its edges
def _of_size(graph: Graph, batch: int) -> Graph:
    return bind(graph, {spec.name: spec.bind(batch=batch).shape for spec in graph.inputs})


def bytes_cast_first(graph: Graph) -> Graph:
    """The graph with every uint8 input cast to f32 before it is transposed or reshaped, not after.

    TensorRT takes uint8 at the edges of a network alone, as input or output of a Cast
    (``DataType.UINT8`` in
    https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/FoundationalTypes/DataType.html).
    """
    if not any(spec.dtype == "uint8" for spec in graph.inputs):
        return graph
    model = graph.edit()
    for value in [v for v in model.graph.inputs if v.dtype == BYTES]:
        users = [node for node, _ in value.uses()]
        if all(node.op_type == "Cast" for node in users):
            continue
        cast = ir.node("Cast", [value], {"to": int(ir.DataType.FLOAT)}, name=f"{value.name}/float")
        floats = cast.outputs[0]
        floats.name, floats.type, floats.shape = f"{value.name}/float", ir.TensorType(ir.DataType.FLOAT), value.shape
        for node in users:
            _take_floats(node, value, floats)
        model.graph.insert_before(next(iter(model.graph)), [cast])
    return graph.with_model(model)


def _take_floats(node: ir.Node, value: ir.Value, floats: ir.Value) -> None:
    """Lets a node read ``floats`` instead; a Cast behind nodes that only move elements falls away."""
    if node.op_type == "Cast" and node.attributes.get_int("to", 0) == int(ir.DataType.FLOAT):
        node.outputs[0].replace_all_uses_with(floats, replace_graph_outputs=True)
        assert node.graph is not None
        node.graph.remove(node, safe=True)
        return
    for index, given in enumerate(node.inputs):
        if given is value:
            node.replace_input_with(index, floats)
    if node.op_type in LAYOUT_ONLY:
        moved = node.outputs[0]
        if moved.dtype == BYTES and not moved.is_graph_output():
            moved.type = ir.TensorType(ir.DataType.FLOAT)  # a new one: copies of a graph share their types
            for user in [user for user, _ in moved.uses()]:
                _take_floats(user, moved, moved)


def named(graph: Graph) -> Graph:
    """The graph with a name of its own on every node: what the parser and the profiler say is then about a node."""
    names = {node.name for node in graph.body}
    if len(names) == len(graph.body) and all(names):
        return graph
    model = graph.edit()
    seen: set[str] = set()
    for index, node in enumerate(model.graph):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type}_{index}"
        seen.add(node.name)
    return graph.with_model(model)
