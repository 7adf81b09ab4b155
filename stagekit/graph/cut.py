"""Cutting a graph into a chain of segments, and finding where it can be cut."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from stagekit.errors import GraphError, UsageError, nearest
from stagekit.graph.cost import node_macs
from stagekit.graph.fingerprint import in_order, reads
from stagekit.graph.model import Graph

RANDOM = frozenset({"RandomNormal", "RandomUniform"})
"""Operators that read nothing and yet are not constant: repeated, they would give other numbers."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A place where one tensor alone crosses.

    Args:
        tensor: its name.
        macs_before: multiply-accumulates spent up to there, for one image.
        shape: of the tensor, batch first.
    """

    tensor: str
    macs_before: int
    shape: tuple[int | str, ...]


def candidates(graph: Graph) -> list[Candidate]:
    """All places where a single activation crosses, in order; needs inferred shapes.

    When such a tensor exists, every node that the outputs need computes either before it or after it, so that
    one walk in topological order, counting the tensors still needed, finds all of them.
    """
    nodes = _needed(graph.body)
    constant = _constant_values(graph.body, nodes)
    remaining = Counter(id(value) for node in nodes for value in reads(node))
    outputs = {id(v) for v in graph.body.outputs}
    live = {id(v) for v in graph.body.inputs if remaining[id(v)]}
    found: list[Candidate] = []
    spent = 0
    for node in nodes:
        spent += node_macs(node)
        for value in reads(node):
            remaining[id(value)] -= 1
            if not remaining[id(value)] and id(value) not in outputs:
                live.discard(id(value))
        live.update(id(v) for v in node.outputs if id(v) not in constant and (remaining[id(v)] or id(v) in outputs))
        if len(live) == 1:
            crossing = next((v for v in node.outputs if id(v) in live), None)
            if crossing is not None and id(crossing) not in outputs and crossing.shape is not None:
                dims = tuple(d if isinstance(d, int) else str(d.value) for d in crossing.shape)
                found.append(Candidate(str(crossing.name), spent, dims))
    return found


def _needed(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that the outputs depend on, in topological order."""
    needed: set[int] = set()
    stack = [v.producer() for v in graph.outputs]
    while stack:
        node = stack.pop()
        if node is not None and id(node) not in needed:
            needed.add(id(node))
            stack.extend(v.producer() for v in reads(node))
    return [node for node in in_order(graph) if id(node) in needed]


def balanced(places: Sequence[Candidate], total_macs: int, stages: int) -> list[str]:
    """The ``stages - 1`` places that make the largest segment as small as it can be.

    Exact, by dynamic programming over the candidates; among places that split equally, the smaller tensor wins.

    Raises:
        UsageError: there are fewer places than cuts.
    """
    cuts = stages - 1
    if cuts < 1:
        raise UsageError(f"expected at least 2 stages, got {stages}", where="--stages")
    useful = _distinct(places, total_macs)
    if len(useful) < cuts:
        raise UsageError(
            f"{stages} stages need {cuts} of the tensors that cross alone and have multiply-accumulates on both sides,"
            f" the graph has {len(useful)}",
            where="--stages",
            remedy="ask for fewer stages, or name tensors: --at A, or --at A,B for a wider cut; --list shows some",
        )
    ends = [c.macs_before for c in useful]
    # best[j]: (largest segment, chosen indices) of the ways to place the cuts so far with the last at j
    best: list[tuple[int, tuple[int, ...]]] = [(ends[j], (j,)) for j in range(len(ends))]
    for depth in range(1, cuts):
        following: list[tuple[int, tuple[int, ...]]] = []
        for j, end in enumerate(ends):
            ways = [(max(best[i][0], end - ends[i]), best[i][1]) for i in range(depth - 1, j)]
            worst, chosen = min(ways, default=(total_macs + 1, ()))
            following.append((worst, (*chosen, j)))
        best = following
    complete = [
        (max(worst, total_macs - ends[j]), chosen) for j, (worst, chosen) in enumerate(best) if len(chosen) == cuts
    ]
    return [useful[j].tensor for j in min(complete)[1]]


def _distinct(places: Sequence[Candidate], total_macs: int) -> list[Candidate]:
    """Of places with nothing costly between them, the one with the smallest tensor.

    Of equal ones the last that keeps the axes: behind a convolution's activation, which devices compute with it.
    """
    kept: dict[int, Candidate] = {}
    for place in places:
        if 0 < place.macs_before < total_macs:
            other = kept.get(place.macs_before)
            if (
                other is None
                or _elements(place) < _elements(other)
                or (_elements(place) == _elements(other) and len(place.shape) == len(other.shape))
            ):
                kept[place.macs_before] = place
    return list(kept.values())


def _elements(place: Candidate) -> int:
    count = 1
    for d in place.shape:
        count *= d if isinstance(d, int) else 1
    return count


def cut(graph: Graph, boundaries: Sequence[Sequence[str]]) -> list[Graph]:
    """Cuts a graph into ``len(boundaries) + 1`` segments; the last ends at the graph's own outputs.

    Args:
        boundaries: the tensors that cross each cut, in order from input to output.

    Raises:
        GraphError: a tensor does not exist, the order is wrong, or tensors cross that were not named.
    """
    values = {str(v.name): v for node in graph.body for v in node.outputs}
    for name, times in Counter(n for tensors in boundaries for n in tensors).items():
        if name not in values:
            raise GraphError(f"no tensor is called {name!r}" + nearest(name, list(values)), where=graph.source)
        if times > 1:
            raise GraphError(f"the tensor {name!r} is named twice; each can cross one cut", where=graph.source)
    ends = [[values[name] for name in tensors] for tensors in boundaries]
    ends.append(list(graph.body.outputs))
    nodes = _needed(graph.body)
    constant = _constant_values(graph.body, nodes)
    for value in (v for tensors in ends[:-1] for v in tensors):
        if id(value) in constant:
            raise GraphError(f"the tensor {value.name!r} is constant: nothing crosses there", where=graph.source)
    segment_of = _assign(ends, constant)
    given = [v for v in graph.body.inputs if v.name not in graph.body.initializers]
    for index, tensors in enumerate(ends[:-1]):
        names = ",".join(str(v.name) for v in tensors)
        if not all(segment_of.get(id(v.producer())) == index for v in tensors):
            raise GraphError(f"the cut at {names} lies before the cut ahead of it", where=graph.source)
        surplus = [v for v in _crossing(graph, given, nodes, segment_of, index) if v not in tensors]
        if surplus:
            raise _crossed(graph, names, surplus, segment_of, index)
    return [_extract(graph, start, end) for start, end in zip([given, *ends[:-1]], ends, strict=True)]


def _crossed(
    graph: Graph, names: str, surplus: Sequence[ir.Value], segment_of: dict[int, int], index: int
) -> GraphError:
    also = ",".join(sorted(str(v.name) for v in surplus))
    elsewhere = "cut elsewhere; --list shows where a single tensor crosses"
    outputs = [v for v in surplus if v in graph.body.outputs]
    # A stage hands on what it makes: an input, an output, or a tensor of an earlier stage cannot be named here.
    can_be_named = not outputs and all(segment_of.get(id(v.producer())) == index for v in surplus)
    return GraphError(
        f"the cut at {names} is also crossed by {also.replace(',', ', ')}",
        where=graph.source,
        remedy=f"name all of them (--at {names},{also}) or {elsewhere}" if can_be_named else elsewhere,
    )


def _assign(ends: Sequence[Sequence[ir.Value]], constant: set[int]) -> dict[int, int]:
    """The segment of each node: the first whose end depends on it. Constant nodes belong to every segment."""
    segment_of: dict[int, int] = {}
    for index, tensors in enumerate(ends):
        stack = [v.producer() for v in tensors]
        while stack:
            node = stack.pop()
            if node is None or id(node) in segment_of or all(id(v) in constant for v in node.outputs):
                continue
            segment_of[id(node)] = index
            stack.extend(v.producer() for v in reads(node))
    return segment_of


def _crossing(
    graph: Graph, given: Sequence[ir.Value], nodes: Sequence[ir.Node], segment_of: dict[int, int], index: int
) -> list[ir.Value]:
    """Tensors made (or given) up to segment ``index`` and read, or given out, after it."""
    later = {id(v) for node in nodes if segment_of.get(id(node), -1) > index for v in reads(node)}
    later |= {id(v) for v in graph.body.outputs}
    earlier = [v for node in nodes if 0 <= segment_of.get(id(node), -1) <= index for v in node.outputs]
    return [v for v in (*given, *earlier) if id(v) in later]


def _constant_values(graph: ir.Graph, nodes: Sequence[ir.Node]) -> set[int]:
    """Values that depend on no input: they are repeated in each segment that needs them."""
    varying = {id(v) for v in graph.inputs if v.name not in graph.initializers}
    for node in nodes:
        if node.op_type in RANDOM or any(id(v) in varying for v in reads(node)):
            varying.update(id(v) for v in node.outputs)
    return {id(v) for node in nodes for v in node.outputs} - varying


def _extract(graph: Graph, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> Graph:
    try:
        extracted = ir.convenience.extract(graph.body, inputs, outputs)
    except ValueError as error:
        raise GraphError(f"the cut leaves nodes without their inputs: {error}", where=graph.source) from error
    for value in extracted.outputs:
        if value.shape is None or value.dtype is None:
            raise GraphError(f"the shape of tensor {value.name!r} is not known", where=graph.source)
    edges = {str(v.name) for v in (*inputs, *outputs)}
    layouts = {name: layout for name, layout in graph.layouts.items() if name in edges}
    return Graph(ir.Model(extracted, ir_version=graph.model.ir_version), graph.source, layouts)
