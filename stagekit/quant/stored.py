"""Positions for devices without float units: every tensor that such a device writes to memory is an integer.

Targets with float units compute a transformer's residual stream, GELU, softmax and LayerNorm in floats
(:mod:`stagekit.quant.positions`); an integer-only device stores what comes out of each of them. No position is
needed where a device folds an operation into the one before it (a bias, a ReLU, an expression of one tensor that
becomes a table) or only moves values.

Two kinds of tensors may be *wide*. The residual stream collects the rounding of every unit, and trained transformers
hold a few values there that are far larger than the rest (Sun et al. 2024, "Massive Activations in Large Language
Models"). What softmax reads is an exponent; what it gives is spread over all tokens, and of 257 equal shares 8 bits
hold nothing but zeros.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.fingerprint import in_order
from stagekit.quant.positions import MOVES, PRODUCTS, Positions, weight_of

VIEWS = MOVES | {"Gather", "Pad", "GlobalMaxPool", "Cast", "DepthToSpace", "SpaceToDepth"}
"""What moves values; a Cast, of a frame's bytes to the same numbers as floats."""

CLAMPS = frozenset({"Relu", "Clip", "Min"})
FUNCTIONS = frozenset({"Erf", "Gelu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "LeakyRelu", "Elu", "Softplus"})
ELEMENTWISE = CLAMPS | FUNCTIONS | {"Add", "Sub", "Mul", "Div", "Pow", "Exp", "Abs", "Neg", "Sqrt"}


def stored_positions(graph: Graph, quantised_inputs: Collection[str] = ()) -> Positions:
    """The positions of a stage on an integer-only device.

    Args:
        quantised_inputs: boundary tensors that arrive as integers.
    """
    walk = _Walk({str(v.name) for v in graph.body.outputs})
    for value in graph.body.inputs:
        walk.enter(str(value.name), value.dtype == ir.DataType.FLOAT)
    for node in in_order(graph.body):
        walk.visit(node)
    return Positions(walk.tensors, frozenset(walk.nodes), frozenset(quantised_inputs))


def wide_tensors(chain: Sequence[tuple[Graph, Positions]]) -> list[frozenset[str]]:
    """By stage, what softmax reads and gives, and the residual stream: a LayerNorm's input and the sums it is made of.

    A stream goes on over boundaries, so that the stages are looked at from the last to the first and back. What the
    last stage of a transformer gives belongs to it, normalised or not: heads read it beside earlier boundaries.
    """
    found: list[set[str]] = [set() for _ in chain]
    if not any(node.op_type == "LayerNormalization" for graph, _ in chain for node in graph.body):
        return [frozenset(wide) for wide in found]
    arriving = {s.name for s in chain[-1][0].outputs}
    for index in reversed(range(len(chain))):
        found[index] |= _stream(*chain[index], arriving)
        arriving = {s.name for s in chain[index][0].inputs} & found[index]
    for index, (graph, positions) in enumerate(chain):
        found[index] |= _stream(graph, positions, arriving | found[index])
        arriving = {s.name for s in graph.outputs} & found[index]
        for node in [n for n in graph.body if n.op_type == "Softmax"]:
            found[index] |= {str(v.name) for v in (node.inputs[0], node.outputs[0]) if v is not None}
    return [frozenset(wide) for wide in found]


@dataclass
class _Walk:
    """Where values come from, as far as the graph was read.

    Args:
        source: the stored tensor that a value is a view or an expression of, or its own name.
        summed: values that are products, with their bias or without it.
    """

    outputs: Collection[str]
    source: dict[str, str] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    summed: set[str] = field(default_factory=set)
    tensors: dict[str, str] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)

    def enter(self, name: str, is_float: bool) -> None:
        self._store(name)
        if not is_float:
            del self.tensors[name]

    def visit(self, node: ir.Node) -> None:
        reads = [name for v in node.inputs if v is not None and (name := str(v.name)) in self.source]
        if not reads:
            return
        self.nodes.add(str(node.name))
        origins = {self.source[name] for name in reads}
        for value in node.outputs:
            name = str(value.name)
            if node.op_type in VIEWS and self.source[reads[0]] in self.stored:
                self.source[name] = self.source[reads[0]]
                if reads[0] in self.tensors:
                    self.tensors[name] = self.tensors[reads[0]]
                continue
            if node.op_type in PRODUCTS or (node.op_type == "Add" and len(reads) == 1 and reads[0] in self.summed):
                self.summed.add(name)
            chained = node.op_type in ELEMENTWISE and len(origins) == 1 and origins <= self.stored
            self.source[name] = self.source[reads[0]] if chained else name
            users = [user for user, _ in value.uses()]
            if name in self.outputs or not users or not all(self._folds(node, name, user) for user in users):
                self._store(name)

    def _store(self, name: str) -> None:
        self.source[name] = self.tensors[name] = name
        self.stored.add(name)

    def _folds(self, node: ir.Node, name: str, user: ir.Node) -> bool:
        """Whether a device computes ``user`` on what it has of ``node`` before storing."""
        if user.op_type == "Split":  # query, key and value are stored apart
            return name in self.summed and node.op_type != "Conv" and _splits_channels(user)
        others = [str(v.name) for v in user.inputs if v is not None and str(v.name) != name]
        others = [other for other in others if other in self.source]
        if user.op_type in CLAMPS:
            return not others
        if node.op_type in ("MatMul", "Gemm") and user.op_type == "Add":
            return all(weight_of(v) is not None for v in user.inputs if v is not None and str(v.name) != name)
        expression = node.op_type in ELEMENTWISE and user.op_type in ELEMENTWISE and self.source[name] != name
        return expression and all(self.source[other] == self.source[name] for other in others)


def _splits_channels(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    return shape is not None and node.attributes.get_int("axis", 0) in (-1, len(shape) - 1)


def _stream(graph: Graph, positions: Positions, seeds: Collection[str]) -> set[str]:
    """Stored tensors that belong together with the seeds and with what LayerNorms read."""
    wide = {positions.tensors.get(s, s) for s in seeds if s in positions.tensors}
    nodes = in_order(graph.body)
    for node in nodes:
        if node.op_type == "LayerNormalization" and node.inputs[0] is not None:
            wide.add(_source(positions.tensors, str(node.inputs[0].name)))
    before = -1
    while len(wide) != before:
        before = len(wide)
        for node in nodes:
            if node.op_type not in ("Add", "Mul") and node.op_type not in VIEWS:
                continue
            reads = [
                _source(positions.tensors, str(v.name)) for v in node.inputs if v is not None and weight_of(v) is None
            ]
            made = [_source(positions.tensors, str(v.name)) for v in node.outputs]
            if node.op_type == "Add" and any(r in wide for r in reads):
                wide.update(made)
            if any(m in wide for m in made):
                wide.update(reads)
    return wide & set(positions.tensors.values()) | {t for t, s in positions.tensors.items() if s in wide}


def _source(tensors: Mapping[str, str], name: str) -> str:
    return tensors.get(name, name)
