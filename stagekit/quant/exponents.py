"""Powers of two by which channels of an activation differ, where a device's units shift what they read.

The channels of a trained transformer's residual stream differ by factors of ten and more, the heads' scores too. A
LayerNorm and a sum can shift each channel to the left by bits of its own before they compute, a softmax each head, so
that 8 bits hold every channel to the same relative precision (the power-of-two factor of Lin et al. 2022, "FQ-ViT").
What crosses a stage's boundary keeps one scale, since SPMs and heads read it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.spec import Quantization
from stagekit.quant.formats import NumberFormat
from stagekit.quant.positions import Positions, weight_of
from stagekit.quant.statistics import Statistics

LARGEST_EXPONENT = 8
"""Bits by which sums, LayerNorm and softmax shift what they read to the left at most."""


def scales_by_channel(
    graph: Graph, positions: Positions, statistics: Mapping[str, Statistics], form: NumberFormat
) -> dict[str, Quantization]:
    """A scale for each channel of tensors that sums and LayerNorms alone read, and for each head of scores.

    Args:
        statistics: of the tensors that the positions name.
        form: of activations; symmetric, on a grid of powers of two.
    """
    found = {}
    for node in graph.body:
        value, name = node.outputs[0], str(node.outputs[0].name)
        if positions.tensors.get(name) != name or value.is_graph_output():
            continue
        axis = _channel_axis(node, positions)
        known = statistics.get(name)
        if axis is None or known is None or known.channel_reach.size != value.shape[axis]:  # type: ignore[index]
            continue
        finest = float(known.channel_reach.max()) / form.high / 2**LARGEST_EXPONENT
        reach = np.moveaxis(known.channel_reach.reshape(-1, *(1 for _ in value.shape[1:])), 0, axis)  # type: ignore[index]
        found[name] = form.fit_channels(reach, axis, finest)
    return found


def _channel_axis(node: ir.Node, positions: Positions) -> int | None:
    """The axis of what a node gives along which its readers shift; None where one of them does not."""
    value = node.outputs[0]
    users = [user for user, _ in value.uses()]
    readers = {user.op_type for user in users}
    if any(user.op_type == "Add" and any(weight_of(v) is not None for v in user.inputs) for user in users):
        return None  # a constant that is added has one scale
    rank = 0 if value.shape is None else len(value.shape)
    if rank == 4 and readers == {"Softmax"} and node.op_type == "MatMul":
        return 1
    summed = node.op_type in ("MatMul", "Gemm", "Add") or (node.op_type == "Mul" and _scales_a_sum(node, positions))
    return 2 if rank == 3 and readers and readers <= {"Add", "LayerNormalization"} and summed else None


def _scales_a_sum(node: ir.Node, positions: Positions) -> bool:
    """Whether a Mul multiplies something stored, or a sum of products, by constants."""
    data = [v for v in node.inputs if v is not None and weight_of(v) is None]
    if len(data) != 1:
        return False
    producer = data[0].producer()
    return str(data[0].name) in positions.tensors or (producer is not None and producer.op_type in ("MatMul", "Gemm"))
