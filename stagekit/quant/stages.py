"""A calibration record and a scheme, applied to a chain of stages: Q/DQ graphs that hand integers on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch

from stagekit.errors import BundleError, UsageError
from stagekit.graph import Graph
from stagekit.graph.cost import macs
from stagekit.graph.spec import Quantization
from stagekit.quant.correction import with_corrected_biases
from stagekit.quant.error import integer_macs
from stagekit.quant.exponents import scales_by_channel
from stagekit.quant.formats import NumberFormat
from stagekit.quant.norms import smoothed
from stagekit.quant.positions import Positions, find_positions
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.ranges import quantization_of
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.short_bias import with_short_biases
from stagekit.quant.statistics import Statistics
from stagekit.quant.stored import stored_positions, wide_tensors


@dataclass(frozen=True, slots=True)
class QuantisedStages:
    """Q/DQ graphs of a chain.

    Args:
        graphs: in order.
        positions: of each.
        edges: (element type, quantisation) of the boundary tensors that are integers, by name: the one scale
            that producer, consumer and every task share.
        integer_share: of the chain's multiply-accumulates.
    """

    graphs: tuple[Graph, ...]
    positions: tuple[Positions, ...]
    edges: Mapping[str, tuple[str, Quantization]]
    integer_share: float


def chain_positions(
    stages: Sequence[tuple[str, Graph]], keep_float: Sequence[str] = (), integer_only: bool = False
) -> list[Positions]:
    """The positions of every stage, each knowing which of its inputs arrive as integers.

    Args:
        stages: (name, graph) in order.
        keep_float: patterns ``stage/node``; without a slash, of node names in any stage.
        integer_only: for devices without float units, which keep nothing in floats.
    """
    found: list[Positions] = []
    arriving: set[str] = set()
    for name, graph in stages:
        if integer_only:
            positions = stored_positions(graph, arriving)
        else:
            positions = find_positions(graph, arriving, patterns_for(keep_float, name))
        found.append(positions)
        arriving = {s.name for s in graph.outputs if s.name in positions.tensors}
    if not integer_only:
        return found
    wide = wide_tensors([(graph, p) for (_, graph), p in zip(stages, found, strict=True)])
    return [replace(p, wide=w) for p, w in zip(found, wide, strict=True)]


def quantise_stages(
    stages: Sequence[tuple[str, Graph]], calibration: Calibration, scheme: QuantScheme, correct_biases: bool = True
) -> QuantisedStages:
    """The chain as Q/DQ graphs.

    Raises:
        BundleError: the record lacks a tensor.
        UsageError: the record keeps layers in floats, and the device has no float units.
        GraphError: a graph's opset has no Q/DQ of the scheme's types.
    """
    if scheme.integer_only and calibration.keep_float:
        raise UsageError(
            f"the record keeps {', '.join(calibration.keep_float)} in floats, which this device has no unit for",
            where=calibration.name,
            remedy="calibrate without --analyze for it",
        )
    edges: dict[str, tuple[str, Quantization]] = {}
    arriving: dict[str, Quantization] = {}
    means: dict[str, Statistics] = {}
    graphs: list[Graph] = []
    places = chain_positions(stages, calibration.keep_float, scheme.integer_only)
    hashes = chain_hashes(stages)
    for (name, graph), positions in zip(stages, places, strict=True):
        seen = {t: statistics_of(calibration, hashes[name], name, t) for t in positions.sources}
        evened: dict[str, Statistics] = {}
        if scheme.integer_only and calibration.equalised:
            graph, evened = smoothed(graph, seen)
        forms = {t: scheme.form(t, positions) for t in seen}
        quantizations = {t: activation_quantization(s, scheme, calibration.method, forms[t]) for t, s in seen.items()}
        quantizations |= {t: forms[t].fit(s.minimum, s.maximum) for t, s in evened.items()}
        if scheme.channel_exponents:
            quantizations |= scales_by_channel(graph, positions, seen, scheme.activation)
        quantizations |= {t: arriving[t] for t in positions.integer_inputs}
        known = {**seen, **evened, **{t: means[t] for t in positions.integer_inputs}}
        if correct_biases:
            graph = with_corrected_biases(graph, positions, quantizations, known, scheme)
            graph = with_short_biases(graph, positions, quantizations, known, scheme)
        graphs.append(insert_qdq(graph, positions, quantizations, scheme))
        outputs = [s.name for s in graph.outputs if s.name in positions.tensors]
        arriving = {t: quantizations[positions.tensors[t]] for t in outputs}
        means = {t: known[positions.tensors[t]] for t in outputs}
        edges |= {t: (scheme.form(t, positions).dtype, q) for t, q in arriving.items()}
    whole = sum(macs(g) for _, g in stages)
    integers = sum(integer_macs(g, p) for (_, g), p in zip(stages, places, strict=True))
    return QuantisedStages(tuple(graphs), tuple(places), edges, integers / max(whole, 1))


def chain_hashes(stages: Sequence[tuple[str, Graph]]) -> dict[str, dict[str, str]]:
    """The hash of every tensor by stage and name; what a stage is given has the hash of what was made before it."""
    found: dict[str, dict[str, str]] = {}
    arriving: dict[str, str] = {}
    for name, graph in stages:
        found[name] = {**graph.tensor_hashes, **{t: h for t, h in arriving.items() if t in graph.tensor_hashes}}
        arriving |= {s.name: found[name][s.name] for s in graph.outputs}
    return found


def stored_formats(
    stages: Sequence[tuple[str, Graph]], calibration: Calibration, scheme: QuantScheme
) -> dict[str, NumberFormat]:
    """The formats of what the scheme stores as integers, by the tensors' hashes."""
    hashes = chain_hashes(stages)
    places = chain_positions(stages, calibration.keep_float, scheme.integer_only)
    return {
        hashes[name][tensor]: scheme.form(tensor, positions)
        for (name, _), positions in zip(stages, places, strict=True)
        for tensor in positions.sources
    }


def statistics_of(calibration: Calibration, hashes: Mapping[str, str], stage: str, tensor: str) -> Statistics:
    """What the record knows of a tensor.

    Raises:
        BundleError: it knows nothing of it.
    """
    found = calibration.statistics.get(hashes[tensor])
    if found is None:
        raise BundleError(
            f"the record {calibration.name} has no statistics of {tensor!r} in {stage}",
            where=stage,
            remedy="it was made by a version that quantised other tensors: calibrate again",
        )
    return found


def activation_quantization(
    statistics: Statistics, scheme: QuantScheme, method: str, form: NumberFormat | None = None
) -> Quantization:
    """A tensor's scale and zero point, with the headroom that the scheme asks for."""
    found = quantization_of(statistics, form or scheme.activation, method)
    return replace(found, scale=tuple(s * 2**scheme.headroom for s in found.scale)) if scheme.headroom else found


def patterns_for(patterns: Sequence[str], stage: str) -> list[str]:
    """Of keep-in-float patterns (``stage/node``, or ``node`` in any stage), those of one stage, for its nodes."""
    chosen = []
    for pattern in patterns:
        before, slash, node = pattern.partition("/")
        if not slash:
            chosen.append(pattern)
        elif fnmatch(stage, before):
            chosen.append(node)
    return chosen
