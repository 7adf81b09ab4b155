"""Biases of few bits: what rounding a bias costs is given back by the direction in which weights are rounded.

A device whose biases have 8 bits holds all biases of a layer on one coarse power-of-two grid. The error of a
channel's bias shifts all its values. Flipping the rounding of a weight from the nearest integer to the other
neighbour shifts the channel's mean by ``+-scale E[x]``; weights that lie nearly halfway are flipped, as long as
that brings ``E[W' x + b']`` nearer to ``E[W x + b]``. It is the identity behind bias correction (Nagel et al. 2019,
equation 17), solved for the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import floor, log2

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.constants import replace_weight
from stagekit.graph.spec import Quantization
from stagekit.quant.formats import Array, dequantise
from stagekit.quant.positions import Positions, biased_products
from stagekit.quant.rounding import quantise_weight
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.statistics import Statistics
from stagekit.quant.weights import channel_axis, weight_quantization


def with_short_biases(
    graph: Graph,
    positions: Positions,
    quantizations: Mapping[str, Quantization],
    statistics: Mapping[str, Statistics],
    scheme: QuantScheme,
) -> Graph:
    """The graph with biases on the grid of ``scheme.bias_bits`` and weights rounded to make up for it.

    The same graph where biases have all bits, or weights a scale for each channel.

    Args:
        graph: its biases corrected for weights rounded as :mod:`stagekit.quant.rounding` does.
        quantizations: of the tensors that the positions name; likewise ``statistics``.
    """
    if scheme.per_channel or scheme.bias_bits >= 32:
        return graph
    model = graph.edit()
    for found in biased_products(model.graph, positions):
        node, source = found.node, found.source
        real, wanted = found.weight.astype(np.float64), found.bias.astype(np.float64).reshape(-1)
        means = _means(node, real, statistics[source].channel_mean)
        channels = channel_axis(node, real.ndim)
        if means is None or channels is None or real.shape[channels] != wanted.size:
            continue
        fitted = weight_quantization(node, real, quantizations[source], scheme)
        short = on_grid(wanted, quantizations[source].scale[0] * fitted.scale[0], scheme.bias_bits)
        moved = np.moveaxis(real, channels, 0)
        rows, mean_rows = (np.moveaxis(a, channels, 0).reshape(wanted.size, -1) for a in (real, means))
        stored = quantise_weight(moved, fitted, scheme).astype(np.int64).reshape(rows.shape)
        for row, held, mean, error in zip(rows, stored, mean_rows, short - wanted, strict=True):
            _flip(row / fitted.scale[0], held, mean * fitted.scale[0], error, scheme.weight.low, scheme.weight.high)
        rounded = np.moveaxis(dequantise(stored, fitted).reshape(moved.shape), 0, channels)
        replace_weight(model.graph, node, 1, rounded, "short")
        replace_weight(model.graph, *found.reader, short.reshape(found.bias.shape), "short")
    return replace(graph, model=model)


def on_grid(bias: Array, unit: float, bits: int) -> Array:
    """Biases as a device holds them: multiples of ``unit`` times the least power of two for which all fit."""
    steps = bias / unit
    largest = float(np.abs(steps).max(initial=0.0))
    shift = max(0, floor(log2(largest)) + 2 - bits) if largest > 0 else 0
    reach = 2 ** (bits - 1)
    held: Array = np.clip(np.rint(steps / 2.0**shift), -reach, reach - 1) * 2.0**shift * unit
    return held


def _flip(exact: Array, stored: Array, effect: Array, error: float, low: int, high: int) -> None:
    """Moves integers of one channel to their other neighbour until ``error`` is as near to zero as that brings it.

    Args:
        exact: the weights in units of their scale; ``stored`` the integers, changed in place.
        effect: what one more in each integer adds to the channel's mean.
    """
    direction = np.where(exact > stored, 1, -1)
    change = direction * effect
    cost = 1 - 2 * np.abs(exact - stored)  # in squared steps; 0 halfway
    clipped = (np.abs(exact - stored) > 0.5) | (stored + direction < low) | (stored + direction > high)
    useful = np.flatnonzero((change * error < 0) & ~clipped)
    for index in useful[np.argsort(cost[useful] / np.abs(change[useful]))]:
        if abs(error + change[index]) < abs(error):
            stored[index] += direction[index]
            error += change[index]


def _means(node: ir.Node, weight: Array, mean: Array) -> Array | None:
    """The mean of what each weight is multiplied by, in the weight's shape; ``None`` where channels differ."""
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        if mean.size != weight.shape[1] * groups:
            return None
        by_output = np.repeat(mean.reshape(groups, -1), weight.shape[0] // groups, axis=0)
        return np.broadcast_to(by_output.reshape(*by_output.shape, *(1 for _ in weight.shape[2:])), weight.shape)
    if node.op_type not in ("Gemm", "MatMul") or weight.ndim != 2:
        return None
    transposed = node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1
    if mean.size != weight.shape[1 if transposed else 0]:
        return None
    return np.broadcast_to(mean if transposed else mean[:, None], weight.shape)
