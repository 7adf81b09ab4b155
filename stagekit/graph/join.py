"""The inverse of cutting: a chain of graphs as one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph.model import Graph


def join(graphs: Sequence[Graph]) -> Graph:
    """One graph that computes what the chain does: each takes, in order, the outputs of the one before.

    Inputs keep the names of the first, outputs those of the last; names inside get a prefix where they would
    meet another's.

    Raises:
        GraphError: there is no graph, or two neighbours do not fit: number, types, shapes or opsets.
    """
    if not graphs:
        raise GraphError("there is nothing to join")
    model = graphs[0].edit()
    body = model.graph
    for number, (before, after) in enumerate(pairwise(graphs), start=1):
        _check(before, after)
        later = after.edit().graph
        given = {v.name for v in body.inputs} | set(body.initializers) | {v.name for n in body for v in n.outputs}
        last = number == len(graphs) - 1
        kept = {str(v.name) for v in later.outputs} if last else set()
        if clash := kept & {str(v.name) for v in body.inputs}:
            raise GraphError(f"the name {min(clash)!r} is that of an input and of an output", where=after.source)
        for value in [v for v in _values(body) if v.name in kept]:
            value.name = f"joined{number - 1}/{value.name}"
        for value in _values(later):
            if value.name in given and value.name not in kept:
                value.name = f"joined{number}/{value.name}"
        for node in later:
            node.name = f"joined{number}/{node.name}" if node.name else node.name
        _append(body, later)
    return Graph(model, graphs[0].source, {**graphs[0].layouts, **graphs[-1].layouts})


def _values(body: ir.Graph) -> list[ir.Value]:
    """All that has a name and is made in a graph: weights and what nodes give."""
    inputs = set(map(id, body.inputs))
    weights = [v for v in body.initializers.values() if id(v) not in inputs]
    return [*weights, *(v for node in body for v in node.outputs)]


def _append(body: ir.Graph, later: ir.Graph) -> None:
    outputs = list(later.outputs)
    later.outputs.clear()
    taken = [v for v in later.inputs if v.name not in later.initializers]
    for given, value in zip(list(body.outputs), taken, strict=True):
        value.replace_all_uses_with(given)
        outputs = [given if v is value else v for v in outputs]
    weights = list(later.initializers.values())
    later.initializers.clear()
    nodes = list(later)
    later.remove(nodes)
    for weight in weights:
        body.register_initializer(weight)
    body.extend(nodes)
    body.outputs.clear()
    body.outputs.extend(outputs)


def _check(before: Graph, after: Graph) -> None:
    gives, takes = before.outputs, after.inputs
    if len(gives) != len(takes):
        raise GraphError(f"it takes {len(takes)} tensors, the graph before gives {len(gives)}", where=after.source)
    for have, want in zip(gives, takes, strict=True):
        fits = len(have.shape) == len(want.shape) and all(
            a == b or isinstance(a, str) or isinstance(b, str) for a, b in zip(have.shape, want.shape, strict=True)
        )
        if have.dtype != want.dtype or not fits:
            raise GraphError(f"it takes {want}, the graph before gives {have}", where=after.source)
    if before.model.opset_imports != after.model.opset_imports:
        raise GraphError(
            f"its opsets {dict(after.model.opset_imports)} differ from {dict(before.model.opset_imports)}",
            where=after.source,
        )
