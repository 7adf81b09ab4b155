"""Even channels between a LayerNorm and the products that read it.

A trained transformer's LayerNorms give single channels that reach ten times further than all others; one scale for
the tensor then leaves the others a few levels. Gain and offset of channel i are divided by ``s_i`` and row i of the
products' weights is multiplied by it, which changes nothing (SmoothQuant, Xiao et al. 2023, with ``alpha = 1/2``:
``s_i = sqrt(reach of channel i / reach of row i)``).

:func:`even_norms` knows the reach without data: a normalised channel has unit variance. :func:`smoothed` takes what
calibration measured, for devices that have one scale a weight and nothing but integers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.constants import replace_weight, weight_values
from stagekit.quant.formats import Array
from stagekit.quant.positions import weight_of
from stagekit.quant.statistics import Statistics

LARGEST_FACTOR = 64.0
"""Beyond, a channel is as good as dead, and scaling it up would only amplify rounding."""

NORMAL_REACH = 4.0
"""Standard deviations that nearly all of a normalised channel lies within."""


def even_norms(graph: Graph) -> Graph:
    """The same function with evened channels, from gains and offsets alone."""
    model = graph.edit()
    for node, readers in _norms(model.graph):
        reach = np.abs(weight_values(node, 2)) + NORMAL_REACH * np.abs(weight_values(node, 1))
        _even(model.graph, node, readers, reach, "evened")
    return replace(graph, model=model)


def smoothed(graph: Graph, statistics: Mapping[str, Statistics]) -> tuple[Graph, dict[str, Statistics]]:
    """The same function with evened channels, and the statistics of the tensors that changed.

    Their histograms are gone: what is known of them is the reach of each channel, from which the range follows.

    Args:
        statistics: of the graph's tensors, by name, as far as they are known.
    """
    model = graph.edit()
    changed: dict[str, Statistics] = {}
    for node, readers in _norms(model.graph):
        name = str(node.outputs[0].name)
        if name not in statistics:
            continue
        known = statistics[name]
        factors = _even(model.graph, node, readers, known.channel_reach, "smoothed")
        reach = known.channel_reach / factors
        changed[name] = replace(
            known,
            minimum=-float(reach.max()),
            maximum=float(reach.max()),
            channel_mean=known.channel_mean / factors,
            channel_reach=reach,
        )
    return replace(graph, model=model), changed


def _norms(graph: ir.Graph) -> Iterator[tuple[ir.Node, list[ir.Node]]]:
    """LayerNorms with the products that alone read them."""
    for node in [n for n in graph if n.op_type == "LayerNormalization" and len(n.inputs) > 2]:
        value = node.outputs[0]
        readers = [user for user, index in value.uses() if user.op_type == "MatMul" and index == 0]
        weights = [weight_of(r.inputs[1]) for r in readers]
        alone = len(readers) == len(value.uses()) and not value.is_graph_output()
        if readers and alone and all(w is not None and len(w.shape) == 2 for w in weights):
            yield node, readers


def _even(graph: ir.Graph, node: ir.Node, readers: list[ir.Node], reach: Array, step: str) -> Array:
    """Scales gain, offset and weights; returns the factors by which the channels were divided."""
    rows = np.max([np.abs(weight_values(r, 1)).max(axis=1) for r in readers], axis=0)
    alive = (reach > 0) & (rows > 0)
    factors = np.ones(reach.size)
    factors[alive] = np.sqrt(reach[alive] / rows[alive])
    factors /= np.exp(np.log(factors).mean())  # only the differences between channels matter
    factors = np.clip(factors, 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    for index in (1, 2):
        replace_weight(graph, node, index, weight_values(node, index) / factors, step)
    for reader in readers:
        replace_weight(graph, reader, 1, weight_values(reader, 1) * factors[:, None], step)
    return factors
