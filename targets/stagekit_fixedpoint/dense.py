"""A single graph with Q/DQ on everything that a fixed-point device stores, from the extremes of a few samples.

Stages go through a calibration record (:mod:`stagekit.quant.stages`); this is for graphs that are none.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.spec import Quantization
from stagekit.quant.qdq import insert_qdq
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stored import stored_positions, wide_tensors
from stagekit_fixedpoint.program import Array

Samples = Sequence[Mapping[str, Array]]


def quantise(graph: Graph, samples: Samples, scheme: QuantScheme) -> Graph:
    """The graph with Q/DQ where :func:`~stagekit.quant.stored.stored_positions` says.

    Args:
        samples: float inputs by name, batch first.
    """
    positions = stored_positions(graph)
    positions = replace(positions, wide=wide_tensors([(graph, positions)])[0])
    found = extremes(graph, positions.sources, samples)

    def fitted(name: str) -> Quantization:
        exact = scheme.form(name, positions).fit(*found[name])
        return replace(exact, scale=tuple(s * 2**scheme.headroom for s in exact.scale))

    return insert_qdq(graph, positions, {name: fitted(name) for name in positions.sources}, scheme)


def extremes(graph: Graph, names: Collection[str], samples: Samples) -> dict[str, tuple[float, float]]:
    """Least and largest value of tensors over the samples, zero included, by ONNX Runtime in floats."""
    import onnxruntime

    model, given = graph.edit(), {s.name for s in graph.inputs}
    known = {str(v.name): v for node in model.graph for v in node.outputs}
    for name in names:
        if name not in given and not known[name].is_graph_output():
            known[name].type = known[name].type or ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(known[name])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = graph.with_model(model).proto().SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    outputs = [v.name for v in session.get_outputs()]
    runs = [{**sample, **dict(zip(outputs, session.run(None, dict(sample)), strict=True))} for sample in samples]
    return {
        name: (min(0.0, *(float(r[name].min()) for r in runs)), max(0.0, *(float(r[name].max()) for r in runs)))
        for name in names
    }
