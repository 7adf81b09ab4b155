"""Cutting a graph into a chain of segments, and finding where it can be cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from stagekit.errors import GraphError, UsageError, nearest
from stagekit.graph.cost import node_macs
from stagekit.graph.fingerprint import in_order
from stagekit.graph.model import Graph


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

    When such a tensor exists, every node computes either before it or after it, so that one walk in
    topological order, counting the tensors still needed, finds all of them.
    """
    nodes = in_order(graph.body)
    constant = _constant_values(graph.body, nodes)
    remaining = {id(v): len(v.uses()) for node in nodes for v in node.outputs}
    outputs = {id(v) for v in graph.body.outputs}
    live = {id(v) for v in graph.body.inputs if v.name not in graph.body.initializers and v.uses()}
    remaining |= {id(v): len(v.uses()) for v in graph.body.inputs}
    found: list[Candidate] = []
    spent = 0
    for node in nodes:
        spent += node_macs(node)
        for value in node.inputs:
            if value is not None and id(value) in remaining:
                remaining[id(value)] -= 1
                if remaining[id(value)] == 0 and id(value) not in outputs:
                    live.discard(id(value))
        for value in node.outputs:
            if id(value) not in constant and (value.uses() or id(value) in outputs):
                live.add(id(value))
        if len(live) == 1:
            value = next((v for v in node.outputs if id(v) in live), None)
            if value is not None and not value.is_graph_output() and value.shape is not None:
                dims = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
                found.append(Candidate(str(value.name), spent, dims))
    return found


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
            f"{stages} stages need {cuts} places where a single tensor crosses, the graph has {len(useful)}",
            where="--stages",
            remedy="ask for fewer stages, or name the tensors of wider cuts with --at A,B",
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
    """Of places with nothing costly between them, the one with the smallest tensor."""
    kept: dict[int, Candidate] = {}
    for place in places:
        if 0 < place.macs_before < total_macs:
            other = kept.get(place.macs_before)
            if other is None or _elements(place) < _elements(other):
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
    for name in (n for tensors in boundaries for n in tensors):
        if name not in values:
            raise GraphError(f"no tensor is called {name!r}" + nearest(name, list(values)), where=graph.source)
    ends = [[values[name] for name in tensors] for tensors in boundaries]
    ends.append(list(graph.body.outputs))
    nodes = in_order(graph.body)
    segment_of = _assign(nodes, ends, _constant_values(graph.body, nodes))
    for index, tensors in enumerate(ends[:-1]):
        if not all(segment_of.get(id(v.producer()), -1) == index for v in tensors):
            names = [str(v.name) for v in tensors]
            raise GraphError(f"the cut at {', '.join(names)} lies before the cut ahead of it", where=graph.source)
        crossing = _crossing(graph, nodes, segment_of, index)
        surplus = sorted(crossing - {str(v.name) for v in tensors})
        if surplus:
            named = ",".join(str(v.name) for v in tensors)
            raise GraphError(
                f"the cut at {named} is also crossed by {', '.join(surplus)}",
                where=graph.source,
                remedy=f"name all of them (--at {named},{','.join(surplus)}) or cut elsewhere; --list shows"
                " where a single tensor crosses",
            )
    starts = [[v for v in graph.body.inputs if v.name not in graph.body.initializers], *ends[:-1]]
    return [_extract(graph, start, end) for start, end in zip(starts, ends, strict=True)]


def _assign(nodes: Sequence[ir.Node], ends: Sequence[Sequence[ir.Value]], constant: set[int]) -> dict[int, int]:
    """The segment of each node: the first whose end depends on it. Constant nodes belong to every segment."""
    segment_of: dict[int, int] = {}
    for index, tensors in enumerate(ends):
        stack = [v.producer() for v in tensors]
        while stack:
            node = stack.pop()
            if node is None or id(node) in segment_of or all(id(v) in constant for v in node.outputs):
                continue
            segment_of[id(node)] = index
            stack.extend(v.producer() for v in node.inputs if v is not None)
    return segment_of


def _crossing(graph: Graph, nodes: Sequence[ir.Node], segment_of: dict[int, int], index: int) -> set[str]:
    """Tensors made (or given) up to segment ``index`` and read after it."""
    outputs = {id(v) for v in graph.body.outputs}
    crossing: set[str] = set()
    for node in nodes:
        if segment_of.get(id(node), len(nodes)) <= index:
            for value in node.outputs:
                readers = [segment_of.get(id(user), -1) for user, _ in value.uses()]
                if any(reader > index for reader in readers) or id(value) in outputs:
                    crossing.add(str(value.name))
    for value in graph.body.inputs:
        if value.name not in graph.body.initializers and any(
            segment_of.get(id(u), -1) > index for u, _ in value.uses()
        ):
            crossing.add(str(value.name))
    return crossing


def _constant_values(graph: ir.Graph, nodes: Sequence[ir.Node]) -> set[int]:
    """Values that depend on no input: they are repeated in each segment that needs them."""
    given = {id(v) for v in graph.inputs if v.name not in graph.initializers}
    varying = set(given)
    for node in nodes:
        has_body = any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())
        if has_body or any(v is not None and id(v) in varying for v in node.inputs):
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
    return Graph(ir.Model(extracted, ir_version=graph.model.ir_version), graph.source)
