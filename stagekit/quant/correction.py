"""Bias correction: the mean error that rounded weights add to each output channel is taken off its bias.

Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction", equation 17:
``E[W' x] - E[W x] = (W' - W) E[x]``, here with the mean that calibration measured. Borders, where a padded
convolution sees zeros instead of x, are counted as if they were not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.constants import add_constant
from stagekit.graph.spec import Quantization
from stagekit.quant.formats import Array, dequantise
from stagekit.quant.positions import Positions, biased_products
from stagekit.quant.rounding import quantise_weight
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.statistics import Statistics
from stagekit.quant.weights import weight_quantization


def with_corrected_biases(
    graph: Graph,
    positions: Positions,
    quantizations: Mapping[str, Quantization],
    statistics: Mapping[str, Statistics],
    scheme: QuantScheme,
) -> Graph:
    """The float graph with biases that make up for the rounding of the weights of its integer products.

    A product without a bias of its own (a MatMul) is corrected in the constant that is added right behind it;
    where there is none it is left alone.

    Args:
        quantizations: of the tensors that the positions name; likewise ``statistics``.
    """
    model = graph.edit()
    for found in biased_products(model.graph, positions):
        data, mean = quantizations[found.source], statistics[found.source].channel_mean
        rounded = mean_error(found.node, found.weight, data, mean, scheme)
        if rounded is not None and found.bias.size == rounded.size:
            reader, index = found.reader
            name = f"{reader.inputs[index].name}/{found.node.name}/corrected"  # type: ignore[union-attr]  # its bias
            corrected = (found.bias - rounded.reshape(found.bias.shape)).astype(np.float32)
            reader.replace_input_with(index, add_constant(model.graph, name, corrected))
    return replace(graph, model=model)


def mean_error(node: ir.Node, weight: Array, data: Quantization, mean: Array, scheme: QuantScheme) -> Array | None:
    """(W' - W) E[x] for each output channel; ``None`` where the mean's channels are not the weight's."""
    quantization = weight_quantization(node, weight, data, scheme)
    error = dequantise(quantise_weight(weight, quantization, scheme), quantization).astype(np.float64) - weight
    if node.op_type == "Conv":
        groups = node.attributes.get_int("group", 1)
        taps = error.sum(axis=tuple(range(2, error.ndim)))
        if mean.size != taps.shape[1] * groups:
            return None
        by_group = taps.reshape(groups, -1, taps.shape[1])
        total: Array = np.einsum("goi,gi->go", by_group, mean.reshape(groups, -1)).ravel()
        return total
    if node.op_type == "Gemm" and node.attributes.get_int("transB", 0) == 1:
        error = error.T
    if node.op_type not in ("Gemm", "MatMul") or error.ndim != 2 or error.shape[0] != mean.size:
        return None
    return np.asarray(mean @ error)
