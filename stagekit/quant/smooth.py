"""Even channels between a LayerNorm and the products that read it, with what calibration measured.

A trained transformer's LayerNorms give single channels that reach ten times further than all others; one scale for
the tensor then leaves the others a few levels. Gain and offset of channel i are divided by ``s_i`` and row i of the
products' weights is multiplied by it, which changes nothing (SmoothQuant, Xiao et al. 2023, with ``alpha = 1/2``:
``s_i = sqrt(reach of channel i / reach of row i)``). :mod:`stagekit.quant.equalise` does the same before any data is
seen, from gain and offset alone, and misses such channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.constants import replace_weight
from stagekit.quant.formats import Array
from stagekit.quant.positions import weight_of
from stagekit.quant.statistics import Statistics

LARGEST_FACTOR = 64.0


def smoothed(graph: Graph, statistics: Mapping[str, Statistics]) -> tuple[Graph, dict[str, Statistics]]:
    """The same function with evened channels, and the statistics of the tensors that changed.

    Their histograms are gone: what is known of them is the reach of each channel, from which the range follows.

    Args:
        statistics: of the graph's tensors, by name, as far as they are known.
    """
    model = graph.edit()
    changed: dict[str, Statistics] = {}
    for node in [n for n in model.graph if n.op_type == "LayerNormalization"]:
        value = node.outputs[0]
        readers = [user for user, index in value.uses() if user.op_type == "MatMul" and index == 0]
        known = statistics.get(str(value.name))
        if known is None or value.is_graph_output() or not readers or len(readers) != len(value.uses()):
            continue
        if len(node.inputs) < 3 or any((w := weight_of(r.inputs[1])) is None or len(w.shape) != 2 for r in readers):
            continue
        rows = np.max([np.abs(_numbers(r, 1)).max(axis=1) for r in readers], axis=0)
        factors = _factors(known.channel_reach, rows)
        for index in (1, 2):
            replace_weight(model.graph, node, index, _numbers(node, index) / factors, "smoothed")
        for reader in readers:
            replace_weight(model.graph, reader, 1, _numbers(reader, 1) * factors[:, None], "smoothed")
        reach = known.channel_reach / factors
        changed[str(value.name)] = replace(
            known,
            minimum=-float(reach.max()),
            maximum=float(reach.max()),
            channel_mean=known.channel_mean / factors,
            channel_reach=reach,
        )
    return replace(graph, model=model), changed


def _factors(reach: Array, rows: Array) -> Array:
    """With a geometric mean of 1: only the differences between channels matter."""
    alive = (reach > 0) & (rows > 0)
    factors = np.ones(reach.size)
    factors[alive] = np.sqrt(reach[alive] / rows[alive])
    factors /= np.exp(np.log(factors).mean())
    return np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR)


def _numbers(node: ir.Node, index: int) -> Array:
    tensor = weight_of(node.inputs[index])
    assert tensor is not None
    return tensor.numpy().astype(np.float64)
