"""Which layers suffer from integers, and the fewest to keep in floats.

Layers are ranked by what each alone does to the tasks' logits: all others float, this one quantised, signal to noise
where a task's head ends, in the task that suffers most. Layers' noises add up, so what stays float for the fewest
multiply-accumulates are those with the most noise for each; the smallest k of them that meets the limit is found by
doubling and halving, and every trial is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from stagekit.data.images import Pixels
from stagekit.graph import Graph
from stagekit.graph.cost import node_macs
from stagekit.quant.error import decibels, sqnr
from stagekit.quant.positions import PRODUCTS, Positions, find_positions
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.ranges import quantization_of, squared_error
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import activation_quantization, chain_hashes, stored_formats
from stagekit.runtime.program import Call
from stagekit.target import Progress, silent
from stagekit_calib.chain import Array, Chain, OrtGraph, Run, execute
from stagekit_calib.readers import Images


@dataclass(frozen=True, slots=True)
class LayerDamage:
    """What one product does when it alone is quantised.

    Args:
        node: ``stage/node``, as keep-in-float patterns name it.
        decibels: signal to quantisation noise in the logits of the task that suffers most, or without tasks in the
            last boundary; the lower the worse.
    """

    node: str
    operator: str
    macs: int
    decibels: float


@dataclass(frozen=True, slots=True)
class TensorDamage:
    """What storing one tensor as integers does to it: signal to quantisation noise, in decibels."""

    stage: str
    tensor: str
    decibels: float


@dataclass(frozen=True, slots=True)
class Trial:
    """A quantised chain that was tried.

    Args:
        keep_float: its nodes in floats.
        integer_share: of the ranked layers' multiply-accumulates that stay in integers.
        drop: what was lost, in the unit of the limit (points of mIoU).
    """

    keep_float: tuple[str, ...]
    integer_share: float
    drop: float


def rank_layers(
    chain: Chain, record: Calibration, scheme: QuantScheme, images: Images, count: int = 4, tell: Progress = silent
) -> list[LayerDamage]:
    """All products of the frozen stages, the most damaging first, measured on the first ``count`` images.

    Args:
        chain: with heads that give logits.
    """
    graphs = {label: OrtGraph(graph) for label, graph in chain.graphs.items()}
    traces = [_traced(chain, graphs, image) for _, image in islice(images, count)]
    hashes = chain_hashes(chain.stages)
    damages: list[LayerDamage] = []
    for stage, graph in chain.stages:
        tell(f"ranking the layers of {stage}")
        whole = find_positions(graph)
        for node in [n for n in graph.body if n.op_type in PRODUCTS and str(n.name) in whole.nodes]:
            alone = OrtGraph(_only(graph, str(node.name), record, hashes[stage], scheme), optimise=False)
            given = [_replayed(chain, {**graphs, stage: alone}, trace, stage) for trace in traces]
            worst = min(sqnr(_flat([t.results for t in traces], task), _flat(given, task)) for task in given[0])
            damages.append(LayerDamage(f"{stage}/{node.name}", node.op_type, node_macs(node), worst))
    return sorted(damages, key=lambda d: d.decibels)


def rank_tensors(chain: Chain, record: Calibration, scheme: QuantScheme) -> list[TensorDamage]:
    """All tensors of the frozen stages that the scheme stores as integers, the roughest first.

    From the record's histograms alone, so without the error that a bin's width hides: an int8 step has 32 bins or more.
    """
    found = []
    for tensor, form in stored_formats(chain.stages, record, scheme).items():
        statistics = record.statistics[tensor]
        centres, counts = statistics.centres(), statistics.counts
        noise = squared_error(centres, counts, form, activation_quantization(statistics, scheme, record.method, form))
        signal = float((counts * centres**2).sum() / max(counts.sum(), 1))
        found.append(TensorDamage(*record.places[tensor], decibels(signal, noise)))
    return sorted(found, key=lambda t: t.decibels)


def smallest_float_set(
    ranked: Sequence[LayerDamage],
    drop_of: Callable[[tuple[str, ...]], float],
    limit: float,
    tell: Progress = silent,
) -> tuple[tuple[str, ...], list[Trial]]:
    """The fewest layers that, kept in floats, hold the drop within the limit.

    They are taken in the order of noise for each multiply-accumulate.

    Args:
        drop_of: what a chain with these nodes in floats loses.

    Returns:
        The nodes, and every trial in the order in which it was made. Where even all in floats does not meet the
        limit, all of them.
    """
    trials: list[Trial] = []
    total = max(sum(d.macs for d in ranked), 1)
    ranked = sorted(ranked, key=lambda d: 10 ** (-d.decibels / 10) / max(d.macs, 1), reverse=True)

    def meets(count: int) -> bool:
        kept = tuple(d.node for d in ranked[:count])
        known = next((t for t in trials if len(t.keep_float) == count), None)
        if known is None:
            share = sum(d.macs for d in ranked[count:]) / total
            known = Trial(kept, share, drop_of(kept))
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


@dataclass(frozen=True)
class _Trace:
    """An image through a float chain: what each call gave, with its label, in order, and the results by task."""

    image: Pixels
    calls: Sequence[tuple[str, list[Array]]]
    results: Mapping[str, Array]


def _traced(chain: Chain, graphs: Mapping[str, OrtGraph], image: Pixels) -> _Trace:
    calls: list[tuple[str, list[Array]]] = []

    def run(call: Call, inputs: list[Array]) -> list[Array]:
        calls.append((call.label, graphs[call.label].run(inputs)[0]))
        return calls[-1][1]

    return _Trace(image, calls, _results(chain, image, run))


def _replayed(chain: Chain, graphs: Mapping[str, OrtGraph], trace: _Trace, changed: str) -> dict[str, Array]:
    """The results with a changed stage. Calls before its first are not made again."""
    first = next((i for i, (label, _) in enumerate(trace.calls) if label == changed), len(trace.calls))
    known = iter(trace.calls[:first])

    def run(call: Call, inputs: list[Array]) -> list[Array]:
        before = next(known, None)
        return graphs[call.label].run(inputs)[0] if before is None else before[1]

    return _results(chain, trace.image, run)


def _results(chain: Chain, image: Pixels, run: Run) -> dict[str, Array]:
    return {task: values for task, (values, _) in execute(chain, image, "image", run).items()}


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


def _flat(results: Sequence[Mapping[str, Array]], task: str) -> Array:
    return np.concatenate([of_image[task].ravel() for of_image in results])
