"""From a Q/DQ graph to an integer-only program, node by node; what does not fit is collected with its reason.

Between a DequantizeLinear and the QuantizeLinear behind an operation the graph computes in real numbers. Here
the operation becomes a :class:`~stagekit_fixedpoint.values.Pending` accumulator, what can be folded (bias,
ReLU, constant factors) is folded, and the QuantizeLinear turns it into one integer step.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from stagekit.errors import CompileError
from stagekit.graph import Graph
from stagekit.graph.cost import macs as graph_macs
from stagekit.graph.fingerprint import in_order
from stagekit.graph.shapes import inferred
from stagekit.target import Unsupported, listed
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.device import Device
from stagekit_fixedpoint.hosting import hosted
from stagekit_fixedpoint.layers import layers_of
from stagekit_fixedpoint.program import Program
from stagekit_fixedpoint.rules import RULES, unknown
from stagekit_fixedpoint.values import Refused, Value


@dataclass(frozen=True, eq=False)
class Lowered:
    """A program, the nodes that did not fit, and the share of multiply-accumulates that are in the program."""

    program: Program
    problems: tuple[Unsupported, ...]
    share: float


def lower(graph: Graph, device: Device, host: bool = False) -> Lowered:
    """Everything of a Q/DQ graph that the device can do; a program that runs only when ``problems`` is empty.

    Args:
        host: what the device cannot do is placed on the host, in floats, wherever tensors are stored around it.
    """
    builder = Builder(graph, device, host)
    for node in in_order(graph.body):
        add(builder, node)
    builder.finish_outputs()
    program = builder.program()
    share = 1.0
    if builder.problems or any(isinstance(step, p.Host) for step in program.steps):
        whole = graph_macs(inferred(graph))
        share = min(1.0, macs(program) / whole) if whole else 0.0
    return Lowered(program, tuple(builder.problems), share)


def lowered(graph: Graph, device: Device, host: bool = False) -> Lowered:
    """:func:`lower` for graphs that must fit entirely.

    Raises:
        CompileError: names the nodes that do not fit, each with its reason.
    """
    result = lower(graph, device, host)
    if result.problems:
        raise CompileError(
            f"{device.name} cannot compute it: {listed(result.problems)}",
            where=graph.source,
            remedy="`stagekit calibrate` writes the Q/DQ graph for a profile; a head or SPM runs on the CPU instead",
        )
    return result


def macs(program: Program) -> int:
    """Multiply-accumulates of one image."""
    return sum(layer.macs for layer in layers_of(program))


def add(builder: Builder, node: ir.Node) -> None:
    """Lowers one node, or notes why it cannot be."""
    name = str(node.name or node.outputs[0].name)
    results: list[Value | None] = [None] * len(node.outputs)
    try:
        # What reads a node that was already reported follows from it, and is not reported again.
        if all(v is None or builder.values.get(str(v.name), 0) is not None for v in node.inputs):
            try:
                results = list(RULES.get(node.op_type, unknown)(builder, node))
            except Refused as refusal:
                if not builder.host or refusal.node:
                    raise
                results = [hosted(builder, node, refusal)]
    except Refused as refusal:
        operator = builder.operators.get(refusal.node, node.op_type)
        builder.problems.append(Unsupported(refusal.node or name, operator, str(refusal)))
    for value, result in zip(node.outputs, results, strict=True):
        builder.values[str(value.name)] = result
