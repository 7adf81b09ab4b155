"""How far a quantised graph is from its float self, and how much of it computes in integers."""

from __future__ import annotations

import numpy as np

from stagekit.graph import Graph
from stagekit.graph.cost import node_macs
from stagekit.quant.formats import Array
from stagekit.quant.positions import PRODUCTS, Positions


def sqnr(reference: Array, noisy: Array) -> float:
    """Signal to quantisation noise, in decibels: 10 log10(sum x**2 / sum (x - y)**2).

    Infinite where both are equal; of a signal that is zero throughout and a noise that is not, minus infinite.
    """
    signal = float(np.square(reference, dtype=np.float64).sum())
    return decibels(signal, float(np.square(reference.astype(np.float64) - noisy).sum()))


def decibels(signal: float, noise: float) -> float:
    """Of two powers; see :func:`sqnr`."""
    if noise == 0.0:
        return float("inf")
    return float(10 * np.log10(signal / noise)) if signal > 0 else float("-inf")


def integer_macs(graph: Graph, positions: Positions) -> int:
    """Multiply-accumulates of the products that compute in integers, for one image; ``graph`` is the float one."""
    nodes = [n for n in graph.body if n.op_type in PRODUCTS and str(n.name) in positions.nodes]
    return sum(node_macs(n) for n in nodes)
