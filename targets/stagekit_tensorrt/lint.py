"""What TensorRT's parser or builder would refuse or take wrongly, found before building, with the way out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from stagekit.errors import CompileError
from stagekit.graph import Graph
from stagekit.target import Unsupported, listed
from stagekit_tensorrt.typed import Plan

ABSENT: frozenset[str] = frozenset(*json.loads(Path(__file__).with_name("absent_operators.json").read_text()).values())
"""Standard operators for which the parser's ``supports_operator`` says no; ``tests/tensorrt/list_names.py`` asks it."""

FOREIGN_TYPES = (ir.DataType.DOUBLE, ir.DataType.INT16, ir.DataType.UINT16, ir.DataType.UINT32, ir.DataType.UINT64)
WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": 1}
QUANTIZED = ("QuantizeLinear", "DequantizeLinear")
SMALLEST_NORMAL_HALF = 2.0**-14


def lint(plan: Plan) -> list[Unsupported]:
    """All findings; ``why`` says what to do about each."""
    graph = plan.graph
    found = [*_dynamic_inputs(plan)]
    for node in graph.body:
        found += (_finding(node, why) for why in _of_node(node, graph))
    return found


def refuse(plan: Plan) -> None:
    """Raises CompileError where there are findings."""
    found = lint(plan)
    if found:
        raise CompileError(f"TensorRT cannot build it: {listed(found)}", where=plan.graph.source)


def _finding(node: ir.Node, why: str) -> Unsupported:
    return Unsupported(node.name or str(node.outputs[0].name), node.op_type, why)


def _dynamic_inputs(plan: Plan) -> Iterator[Unsupported]:
    """The builder's own complaint comes after parsing, and older ones built an engine that did not run."""
    for spec in plan.graph.inputs:
        open_dims = [d for d in spec.shape if isinstance(d, str)]
        if open_dims and spec.name not in plan.config.shapes:
            names = ", ".join(map(str, open_dims))
            why = f"dimensions {names} of this input have no sizes; only the batch may stay open: bind them first"
            yield Unsupported(spec.name, "input", why)


def _of_node(node: ir.Node, graph: Graph) -> Iterator[str]:
    if node.domain not in ("", "ai.onnx"):
        yield f"TensorRT has no operators of {node.domain}; export with standard ONNX operators"
        return
    if node.op_type in ABSENT:
        yield f"TensorRT's parser has no {node.op_type}; write it with other operators, or run this stage elsewhere"
        return
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype in FOREIGN_TYPES:
            kind = value.dtype.name.lower()
            yield f"tensor {value.name!r} is {kind}, which TensorRT lacks; cast it to f32 or int32"
    yield from _bytes(node)
    yield from _types(node, graph.body.opset_imports[""])
    if node.op_type in QUANTIZED:
        yield from _quantization(node)
    elif node.op_type in WEIGHT_AXES:
        yield from _operands(node)


def _bytes(node: ir.Node) -> Iterator[str]:
    if node.op_type == "Cast" or node.op_type in QUANTIZED:
        return
    for value in (*node.inputs, *node.outputs):
        if value is not None and value.dtype == ir.DataType.UINT8:
            yield f"tensor {value.name!r} is uint8, which TensorRT takes at an edge alone, before or after a Cast"
            return


def _types(node: ir.Node, opset: int) -> Iterator[str]:
    """Inputs that must be of one type are; TensorRT converts nothing by itself."""
    formals = _formals(node.op_type, opset)
    bound: dict[str, ir.Value] = {}
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype is None or not formals:
            continue
        name, homogeneous = formals[min(index, len(formals) - 1)]
        if not homogeneous and index >= len(formals) - 1:
            continue
        other = bound.setdefault(name, value)
        if other.dtype != value.dtype and "(" not in name:
            a, b = (f"{v.name!r} {v.dtype.name.lower()}" for v in (other, value) if v.dtype is not None)
            yield f"its inputs differ in type ({a}, {b}); put a Cast before one of them"


@cache  # onnx makes these anew at every question
def _formals(operator: str, opset: int) -> tuple[tuple[str, bool], ...]:
    """The type of each input as the operator's definition calls it, and whether a variadic one has it throughout."""
    return tuple((i.type_str, i.is_homogeneous) for i in onnx.defs.get_schema(operator, opset).inputs)


def _quantization(node: ir.Node) -> Iterator[str]:
    scale = _constant(node, 1)
    stored = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
    # int32 is a bias, which its reader complains of.
    if stored is not None and stored.dtype not in (ir.DataType.INT8, ir.DataType.INT32, None):
        yield f"it stores {stored.dtype.name.lower()}; TensorRT takes int8: quantise activations as int8"
    zero = _constant(node, 2)
    if zero is not None and np.any(zero):
        value = int(np.ravel(zero)[np.flatnonzero(zero)[0]])
        yield f"its zero point is {value}; TensorRT takes 0: quantise symmetrically"
    if scale is None:
        yield "its scale is computed; TensorRT takes a constant: calibrate, do not quantise dynamically"
        return
    if not np.all(np.isfinite(scale)) or np.any(scale <= 0):
        yield "its scale is not a positive number; calibrate again on data that reaches this tensor"
    elif scale.dtype == np.float16 and np.any(scale < SMALLEST_NORMAL_HALF):
        yield "its scale is too small for fp16; leave the rest of an int8 graph in bf16 or f32 (option 'rest')"
    data = node.inputs[0]
    if scale.size > 1 and data is not None and data.const_value is None and _weight_of(data) is None:
        yield "an activation has one scale a channel; TensorRT takes one a tensor: quantise activations per tensor"


def _operands(node: ir.Node) -> Iterator[str]:
    bias = node.inputs[2] if node.op_type != "MatMul" and len(node.inputs) > 2 else None
    if bias is not None and (maker := bias.producer()) is not None and maker.op_type == "DequantizeLinear":
        yield f"its bias is quantised (by {maker.name!r}); TensorRT takes it in floating point: QuantizeBias=False"
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    maker = weight.producer() if weight is not None else None
    if maker is None or maker.op_type != "DequantizeLinear":
        return
    scale = _constant(maker, 1)
    axis = maker.attributes.get_int("axis", 1)
    transposed = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    wanted = 1 if transposed else WEIGHT_AXES[node.op_type]
    if scale is not None and scale.size > 1 and axis != wanted:
        yield f"the scales of its weight run along axis {axis}; TensorRT takes one an output channel (axis {wanted})"


def _weight_of(value: ir.Value) -> ir.Node | None:
    """The QuantizeLinear of a constant, where a value is one."""
    node = value.producer()
    if node is not None and node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
        return node if node.inputs[0].const_value is not None else None
    return None


def _constant(node: ir.Node, index: int) -> np.ndarray[Any, Any] | None:
    value = node.inputs[index] if len(node.inputs) > index else None
    return None if value is None or value.const_value is None else value.const_value.numpy()
