"""SPMs and heads in integers, on request. Otherwise they stay float, and only their edges are integers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from stagekit.errors import BundleError, UsageError
from stagekit.graph import Graph
from stagekit.graph.spec import Quantization
from stagekit.quant.correction import with_corrected_biases
from stagekit.quant.positions import find_positions
from stagekit.quant.qdq import insert_qdq, with_integer_edges
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.short_bias import with_short_biases
from stagekit.quant.stages import activation_quantization


def adapter_keys(graph: Graph, adapter: str) -> dict[str, str]:
    """The tensors of an adapter whose ranges integers may need, by name: what a record calls them.

    A tensor's own hash does not do: in front of the first weight, all adapters compute alike, on different features.

    Args:
        graph: as it will run, with known sizes.
        adapter: its fingerprint in the task's manifest.
    """
    edges = [s.name for s in graph.inputs]
    found = [*find_positions(graph).tensors.values(), *find_positions(graph, edges).tensors.values()]
    hashes = graph.tensor_hashes
    return {t: hashlib.sha256(f"{adapter}:{hashes[t]}".encode()).hexdigest() for t in dict.fromkeys(found)}


def quantise_adapter(
    graph: Graph,
    adapter: str,
    edges: Mapping[str, tuple[str, Quantization]],
    calibration: Calibration,
    scheme: QuantScheme,
) -> Graph:
    """An adapter as a Q/DQ graph: its products compute in integers, its outputs are floats but for the edges named.

    Args:
        adapter: its fingerprint in the task's manifest.
        edges: (element type, quantisation) of those inputs and outputs that are integers.

    Raises:
        BundleError: the record did not see this adapter.
        UsageError: the edges have another element type than the scheme.
    """
    form = scheme.activation.dtype
    if other := next((dtype for dtype, _ in edges.values() if dtype != form), None):
        raise UsageError(
            f"the stages hand on {other}, the adapters' profile computes in {form}",
            remedy="leave adapters in floats, or give them a profile of the stages' format",
        )
    graph = _with_outputs_apart(graph)
    keys = adapter_keys(graph, adapter)
    outputs = {s.name for s in graph.outputs}
    positions = find_positions(graph, [s.name for s in graph.inputs if s.name in edges])
    positions = replace(positions, tensors={t: s for t, s in positions.tensors.items() if t not in outputs})
    sources = dict.fromkeys(positions.tensors.values())
    if missing := next((t for t in sources if keys[t] not in calibration.statistics), None):
        raise BundleError(
            f"the record {calibration.name} has no statistics of {missing!r} in this adapter",
            where=graph.source,
            remedy="run the task while ranges are taken: `stagekit calibrate X.stages X.task ...`",
        )
    seen = {t: calibration.statistics[keys[t]] for t in sources}
    quantizations = {t: activation_quantization(s, scheme, calibration.method) for t, s in seen.items()}
    quantizations |= {t: edges[t][1] for t in positions.integer_inputs}
    corrected = with_corrected_biases(graph, positions, quantizations, seen, scheme)
    corrected = with_short_biases(corrected, positions, quantizations, seen, scheme)
    quantised = insert_qdq(corrected, positions, quantizations, scheme)
    return with_integer_edges(quantised, {t: e for t, e in edges.items() if t in outputs})


def _with_outputs_apart(graph: Graph) -> Graph:
    """What is an output and read inside as well (a semantic map) can then be float outside and an integer inside."""
    if not any(value.uses() for value in graph.body.outputs):
        return graph
    model = graph.edit()
    for index, value in enumerate(list(model.graph.outputs)):
        if value.uses():
            name = str(value.name)
            value.name = f"{name}/inside"
            node = ir.node("Identity", [value], name=f"{name}/outside")
            output = node.outputs[0]
            output.name, output.type, output.shape = name, value.type, value.shape
            model.graph.append(node)
            model.graph.outputs[index] = output
    return replace(graph, model=model)
