"""Which layers suffer from integers, and the fewest to keep in floats.

Layers are ranked by what each alone does to the end of its stage: all others float, this one quantised, signal
to noise at the boundary. Then the k most damaging stay float, and the smallest k that meets the limit is found
by doubling and halving; every trial is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from stagekit.graph import Graph
from stagekit.graph.cost import node_macs
from stagekit.quant.error import sqnr
from stagekit.quant.positions import PRODUCTS, Positions, find_positions
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.ranges import quantization_of
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import chain_hashes
from stagekit.runtime.program import Call
from stagekit.target import Progress, silent
from stagekit_calib.chain import Array, Chain, OrtGraph, execute
from stagekit_calib.readers import Images


@dataclass(frozen=True, slots=True)
class LayerDamage:
    """What one product does when it alone is quantised.

    Args:
        node: ``stage/node``, as keep-in-float patterns name it.
        decibels: signal to quantisation noise at the end of its stage; the lower the worse.
    """

    node: str
    operator: str
    macs: int
    decibels: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A quantised chain that was tried.

    Args:
        keep_float: its nodes in floats.
        drop: what was lost, in the unit of the limit (points of mIoU).
    """

    keep_float: tuple[str, ...]
    drop: float


def rank_layers(
    chain: Chain, record: Calibration, scheme: QuantScheme, images: Images, count: int = 4, tell: Progress = silent
) -> list[LayerDamage]:
    """All products of the frozen stages, the most damaging first, measured on the first ``count`` images."""
    inputs = _stage_inputs(chain, images, count)
    damages: list[LayerDamage] = []
    hashes = chain_hashes(chain.stages)
    for stage, graph in chain.stages:
        tell(f"ranking the layers of {stage}")
        whole = find_positions(graph)
        products = [n for n in graph.body if n.op_type in PRODUCTS and str(n.name) in whole.nodes]
        reference = OrtGraph(graph)
        expected = [reference.run(values)[0] for values in inputs[stage]]
        for node in products:
            alone = OrtGraph(_only(graph, str(node.name), record, hashes[stage], scheme), optimise=False)
            given = [alone.run(values)[0] for values in inputs[stage]]
            decibels = sqnr(_flat(expected), _flat(given))
            damages.append(LayerDamage(f"{stage}/{node.name}", node.op_type, node_macs(node), decibels))
    return sorted(damages, key=lambda d: d.decibels)


def smallest_float_set(
    ranked: Sequence[LayerDamage],
    drop_of: Callable[[tuple[str, ...]], float],
    limit: float,
    tell: Progress = silent,
) -> tuple[tuple[str, ...], list[Trial]]:
    """The fewest of the most damaging layers that, kept in floats, hold the drop within the limit.

    Args:
        drop_of: what a chain with these nodes in floats loses.

    Returns:
        The nodes, and every trial in the order in which it was made. Where even all in floats does not meet the
        limit, all of them.
    """
    trials: list[Trial] = []

    def meets(count: int) -> bool:
        kept = tuple(d.node for d in ranked[:count])
        known = next((t for t in trials if len(t.keep_float) == count), None)
        if known is None:
            known = Trial(kept, drop_of(kept))
            trials.append(known)
            tell(f"{count} of {len(ranked)} layers in floats: drop {known.drop:.2f}, limit {limit:g}")
        return known.drop <= limit

    enough = 0
    while enough < len(ranked) and not meets(enough):
        enough = max(1, min(2 * enough, len(ranked)))
    too_few = max((len(t.keep_float) for t in trials if t.drop > limit and len(t.keep_float) < enough), default=-1)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if meets(middle):
            enough = middle
        else:
            too_few = middle
    return tuple(d.node for d in ranked[:enough]), trials


def with_kept(record: Calibration, keep_float: Sequence[str]) -> Calibration:
    """The record with further nodes in floats."""
    return replace(record, keep_float=tuple(dict.fromkeys((*record.keep_float, *keep_float))))


def _stage_inputs(chain: Chain, images: Images, count: int) -> dict[str, list[list[Array]]]:
    """What each stage gets, call by call, from the first images."""
    graphs = {label: OrtGraph(graph) for label, graph in chain.graphs.items()}
    inputs: dict[str, list[list[Array]]] = {label: [] for label in chain.graphs}
    for index, (label, image) in enumerate(images):
        if index == count:
            break

        def run(call: Call, values: list[Array]) -> list[Array]:
            inputs[call.label].append(values)
            return graphs[call.label].run(values)[0]

        execute(chain, image, label, run)
    return inputs


def _only(graph: Graph, node: str, record: Calibration, hashes: Mapping[str, str], scheme: QuantScheme) -> Graph:
    """The stage with one product quantised and float boundaries."""
    others = [str(n.name) for n in graph.body if str(n.name) != node]
    alone = find_positions(graph, keep_float=[_literal(name) for name in others])
    outputs = {s.name for s in graph.outputs}
    positions = Positions({t: s for t, s in alone.tensors.items() if t not in outputs}, alone.nodes)
    statistics = {t: record.statistics[hashes[t]] for t in positions.sources if hashes[t] in record.statistics}
    quantizations = {t: quantization_of(s, scheme.activation, record.method) for t, s in statistics.items()}
    known = {t: s for t, s in positions.tensors.items() if s in quantizations}
    return insert_qdq(graph, Positions(known, positions.nodes), quantizations, scheme)


def _literal(name: str) -> str:
    """A node's name as a pattern for itself."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _flat(calls: Sequence[Sequence[Array]]) -> Array:
    return np.concatenate([v.ravel() for outputs in calls for v in outputs])
