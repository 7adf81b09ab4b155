"""The scales of a product's weight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir

from stagekit.graph.spec import Quantization
from stagekit.quant.formats import Array, NumberFormat, dequantise, quantise
from stagekit.quant.positions import bias_reader, weight_of
from stagekit.quant.scheme import QuantScheme

FINEST = 4
"""Scales that are tried for a weight: the one that holds its largest value, and its halves."""

LARGEST_BIAS = 2.0**30
"""In units of the products that it is added to: half of what 32 bits hold, so that the sum has room."""


def channel_axis(node: ir.Node, rank: int) -> int | None:
    """The axis of a product's weight that makes its output channels; ``None`` where groups mix them."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if node.attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return 1 if rank == 2 else None


def weight_quantization(node: ir.Node, array: Array, data: Quantization | None, scheme: QuantScheme) -> Quantization:
    """The scales of a product's weight: one for each output channel, or a single one.

    Those of dead channels, whose weights are nothing next to their bias, are as fine as the bias allows: on the scale
    of such weights it would not fit into 32 bits.

    On a grid of powers of two a single scale is the one of least *relative* error, averaged over the output
    channels: a finer one clips a few large values and keeps channels with small weights, in a depthwise
    convolution whole channels, from being rounded away.

    Args:
        array: the weight's values.
        data: of what the weight is multiplied with, where that is an integer.
    """
    form, channels = scheme.weight, channel_axis(node, array.ndim)
    if scheme.per_channel and channels is not None:
        return form.fit_channels(array, channels, _finest(node, array.shape[channels], data))
    widest = form.fit(float(array.min(initial=0.0)), float(array.max(initial=0.0)))
    if form.grid != "power_of_two" or channels is None or not array.size:
        return widest
    finer = [replace(widest, scale=(widest.scale[0] / 2**halving,)) for halving in range(FINEST)]
    rows = np.moveaxis(array.astype(np.float64), channels, 0).reshape(array.shape[channels], -1)
    return min(finer, key=lambda q: _relative_error(rows, q, form))


def _finest(node: ir.Node, channels: int, data: Quantization | None) -> Array | float:
    """The finest scales on which a product's bias can be an integer beside its products."""
    reader = bias_reader(node)
    bias = weight_of(reader[0].inputs[reader[1]]) if reader else None
    if bias is None or data is None or bias.size != channels:
        return 0.0
    finest: Array = np.abs(bias.numpy().astype(np.float64).ravel()) / (data.scale[0] * LARGEST_BIAS)
    return finest


def _relative_error(rows: Array, quantization: Quantization, form: NumberFormat) -> float:
    """Noise over signal, averaged over rows; a row counts 1 at most, which is what being zero costs."""
    noise = ((dequantise(quantise(rows, quantization, form), quantization) - rows) ** 2).sum(axis=1)
    power = (rows**2).sum(axis=1)
    floor = max(1e-9 * float(power.max(initial=0.0)), np.finfo(np.float64).tiny)
    return float(np.minimum(noise / np.maximum(power, floor), 1.0).mean())
