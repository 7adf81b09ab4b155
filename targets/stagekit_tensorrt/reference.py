"""What a typed graph must give: the file for TensorRT, run by ONNX Runtime on the CPU.

ONNX Runtime has few fp16 and bf16 kernels for CPUs, and would compute whole stretches in f32 without rounding between
their nodes. Here every tensor that the file has in half is rounded to half, as if TensorRT fused nothing; what it
fuses it computes more exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph, TensorSpec

Array = np.ndarray[Any, Any]
FLOAT = ir.DataType.FLOAT
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def run(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a typed graph, by name; half edges go in and come out as f32 arrays, rounded to half."""
    return runner(graph)(inputs)


def runner(graph: Graph) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """:func:`run` for many calls."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if any(node.op_type == "QuantizeLinear" for node in graph.body):
        # What Q/DQ nodes say, not what fused kernels make of it: values at a tie would fall either way.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = with_float_arithmetic(graph).proto().SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [spec.name for spec in graph.outputs]
    wide = {spec.name for spec in graph.inputs if spec.dtype in ("float16", "bfloat16")}

    def call(inputs: Mapping[str, Array]) -> dict[str, Array]:
        given = {name: array.astype(np.float32) if name in wide else array for name, array in inputs.items()}
        return dict(zip(names, session.run(names, given), strict=True))

    return call


def sample(specs: tuple[TensorSpec, ...], batch: int, seed: int = 0) -> dict[str, Array]:
    """Seeded inputs: bytes over their whole range, small integers, or standard normal numbers."""
    random = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for spec in specs:
        shape = spec.bind(batch=batch).concrete()
        if spec.dtype.startswith(("uint", "int")):
            low, high = np.iinfo(spec.numpy_dtype).min, np.iinfo(spec.numpy_dtype).max
            made[spec.name] = random.integers(max(low, -128), min(high, 255) + 1, shape).astype(spec.numpy_dtype)
        else:
            made[spec.name] = random.standard_normal(shape, np.float32).astype(spec.numpy_dtype)
    return made


def with_float_arithmetic(graph: Graph) -> Graph:
    """The graph with every half tensor rounded to its type and kept in f32; unchanged where there is none."""
    model = graph.edit()
    body = model.graph
    for value in body.initializers.values():
        if value.dtype in HALVES and value.const_value is not None:
            array = value.const_value.numpy().astype(np.float32)
            value.const_value = ir.tensor(array, name=value.name)
            value.type = ir.TensorType(FLOAT)
    for value in body.inputs:
        if (half := _half(value)) is not None:
            value.type = ir.TensorType(FLOAT)
            _round(body, value, half)
    for node in list(body):
        for value in node.outputs:
            half = _half(value)
            if half is not None and not _is_rounding(node):
                if node.op_type == "Cast":
                    node.attributes["to"] = ir.AttrInt64("to", int(FLOAT))
                value.type = ir.TensorType(FLOAT)
                _round(body, value, half)
    return graph.with_model(model)


def _half(value: ir.Value) -> ir.DataType | None:
    return value.dtype if value.dtype in HALVES else None


def _is_rounding(node: ir.Node) -> bool:
    return bool(node.name) and str(node.name).endswith("/rounding")


def _round(body: ir.Graph, value: ir.Value, half: ir.DataType) -> None:
    """Puts a Cast to half and back behind a tensor."""
    users = list(value.uses())
    down = ir.node("Cast", [value], {"to": int(half)}, name=f"{value.name}/rounding")
    up = ir.node("Cast", [down.outputs[0]], {"to": int(FLOAT)}, name=f"{value.name}/up")
    down.outputs[0].name, down.outputs[0].type = f"{value.name}/rounded", ir.TensorType(half)
    up.outputs[0].name, up.outputs[0].type = f"{value.name}/up", ir.TensorType(FLOAT)
    producer = value.producer()
    if producer is None:
        body.insert_before(next(iter(body)), [down, up])
    else:
        body.insert_after(producer, [down, up])
    for node, index in users:
        node.replace_input_with(index, up.outputs[0])
    if value.is_graph_output():
        place = list(body.outputs).index(value)
        up.outputs[0].shape = value.shape
        up.outputs[0].name, value.name = value.name, f"{value.name}/unrounded"
        body.outputs[place] = up.outputs[0]
