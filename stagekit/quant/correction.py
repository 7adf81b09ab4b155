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
from stagekit.quant.positions import PRODUCTS, Positions, bias_reader, weight_of
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
    for node in [n for n in model.graph if str(n.name) in positions.nodes and n.op_type in PRODUCTS]:
        weight, data = weight_of(node.inputs[1]), node.inputs[0]
        source = positions.tensors.get(str(data.name)) if data is not None else None
        reader = bias_reader(node)
        if weight is None or source is None or reader is None:
            continue
        rounded = mean_error(node, weight.numpy(), quantizations[source], statistics[source].channel_mean, scheme)
        value = reader[0].inputs[reader[1]]
        bias = weight_of(value)
        if rounded is None or bias is None or value is None or bias.size != rounded.size:
            continue
        corrected = (bias.numpy() - rounded.reshape(bias.shape.numpy())).astype(np.float32)
        fresh = add_constant(model.graph, f"{value.name}/{node.name}/corrected", corrected)
        reader[0].replace_input_with(reader[1], fresh)
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
