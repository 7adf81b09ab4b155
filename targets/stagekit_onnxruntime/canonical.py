"""Making ONNX Runtime's optimised model the same bytes each time.

Its layout transformer walks a table that is ordered by memory addresses, so the nodes that it adds come in
another order, and under other names, in every process. Here they are put in the order in which the graph's
outputs need them and named after that order; names from the source graph are kept, for people who profile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import onnx_ir as ir


def make_canonical(model: ir.Model, known_names: Collection[str]) -> None:
    """Puts a model's nodes in canonical order and gives new ones canonical names.

    Args:
        known_names: of the source graph's nodes and tensors.
    """
    graph = model.graph
    order = _in_order_of_need(graph)
    graph.remove(list(graph))
    graph.extend(order)
    edges = {id(value) for value in (*graph.inputs, *graph.outputs)}
    for number, node in enumerate(order):
        if node.name is None or node.name.removesuffix("_nchwc") not in known_names:
            node.name = f"{node.op_type}:{number}"
        for index, value in enumerate(node.outputs):
            if id(value) not in edges and value.name and value.name not in known_names:
                value.name = f"{node.op_type}:{number}:{index}"


def _in_order_of_need(graph: ir.Graph) -> list[ir.Node]:
    """Nodes after their sources, in the order of a depth-first walk from the outputs."""
    here = {id(node) for node in graph}
    order: list[ir.Node] = []
    seen: set[int] = set()
    # Roots last on the stack come first; what no output needs (there should be none) follows in the file's order.
    stack = [(node, False) for node in reversed(list(graph))]
    stack += [(node, False) for value in reversed(graph.outputs) if (node := value.producer()) is not None]
    while stack:
        node, sources_done = stack.pop()
        if sources_done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            sources = [value.producer() for value in _reads(node)]
            stack += [(s, False) for s in reversed(sources) if s is not None and id(s) in here]
    return order


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, its loop and branch bodies included."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type is ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _reads(inner)
