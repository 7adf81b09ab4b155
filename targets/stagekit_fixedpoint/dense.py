"""Q/DQ on everything that a fixed-point device stores, which is more than runtimes with float units quantise.

Targets that compute in floats between products leave the residual stream of a transformer, softmax and
LayerNorm in floats; an integer-only device cannot. :func:`quantise` puts QuantizeLinear and DequantizeLinear
behind every operation, except where a device folds (bias, ReLU, tables) or only moves values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, log2

import numpy as np
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.graph.fingerprint import in_order
from stagekit_fixedpoint.arithmetic import Format, dtype_of
from stagekit_fixedpoint.device import Arithmetic
from stagekit_fixedpoint.elementwise import FUNCTIONS
from stagekit_fixedpoint.program import Array

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest value of each tensor, by name."""

PRODUCTS = {"Conv", "MatMul", "Gemm"}
MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Split", "Gather", "Identity", "Pad"}
MOVES |= {"MaxPool", "GlobalMaxPool", "Cast"}
ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Relu", "Clip", *FUNCTIONS}


def quantise(graph: Graph, ranges: Ranges, arithmetic: Arithmetic, fixed_scale: float | None = None) -> Graph:
    """The graph with Q/DQ for the given arithmetic.

    Args:
        ranges: of every tensor that :func:`places` lists.
        fixed_scale: one scale for every activation and weight (``ap_fixed<16,6>`` has ``2**-10``).
    """
    model = graph.edit()
    wanted = set(places(graph))
    body = model.graph
    edit = _Edit(body, arithmetic, fixed_scale)
    for node in list(in_order(body)):
        if node.op_type in PRODUCTS:
            edit.quantise_weight(node)
        for value in list(node.outputs):
            if str(value.name) in wanted:
                edit.quantise_activation(value, node, ranges[str(value.name)])
    for value in list(body.inputs):
        if str(value.name) in wanted:
            edit.quantise_activation(value, None, ranges[str(value.name)])
    body.sort()
    return graph.with_model(model)


def places(graph: Graph) -> list[str]:
    """The tensors that need Q/DQ."""
    outputs = {str(v.name) for v in graph.body.outputs}
    source: dict[str, str] = {}
    found = [s.name for s in graph.inputs if s.dtype == "float32"]
    source |= {s.name: s.name for s in graph.inputs}
    kept = {s.name for s in graph.inputs}
    for node in in_order(graph.body):
        reads = [str(v.name) for v in node.inputs if v is not None and str(v.name) in source]
        if not reads:
            continue
        for value in node.outputs:
            name = str(value.name)
            if node.op_type in MOVES:
                source[name] = source[reads[0]]
                continue
            users = [user for user, _ in value.uses()]
            chained = node.op_type in ELEMENTWISE and len({source[r] for r in reads} & kept) == 1
            chained = chained and len({source[r] for r in reads}) == 1
            source[name] = source[reads[0]] if chained else name
            if name in outputs or not users or not all(_folds(node, name, user, source) for user in users):
                found.append(name)
                kept.add(name)
                source[name] = name
    return found


def _folds(node: ir.Node, name: str, user: ir.Node, source: Mapping[str, str]) -> bool:
    """Whether a device computes ``user`` on what it has of ``node`` before storing."""
    others = [str(v.name) for v in user.inputs if v is not None and str(v.name) != name and str(v.name) in source]
    if user.op_type in ("Relu", "Clip") and node.op_type not in MOVES:
        return True
    if node.op_type in ("MatMul", "Gemm") and user.op_type == "Add":
        return not others
    return (
        node.op_type in ELEMENTWISE
        and user.op_type in ELEMENTWISE
        and source[name] != name
        and all(source[o] == source[name] for o in others)
    )


class _Edit:
    def __init__(self, body: ir.Graph, arithmetic: Arithmetic, fixed_scale: float | None) -> None:
        self.body = body
        self.arithmetic = arithmetic
        self.fixed_scale = fixed_scale
        self.weights: dict[str, ir.Value] = {}

    def quantise_activation(self, value: ir.Value, node: ir.Node | None, limits: tuple[float, float]) -> None:
        a, name = self.arithmetic, str(value.name)
        fmt = Format(a.activation_bits)
        scale, zero = _scale(limits, fmt, a)
        if node is not None and node.op_type == "Softmax":
            scale, zero = 2.0 ** -(fmt.bits - 1), 0
        if self.fixed_scale is not None:
            scale, zero = self.fixed_scale, 0
        users = list(value.uses())
        constants = [
            self.constant(f"{name}/scale", np.array(scale, np.float32)),
            self.constant(f"{name}/zero", np.array(zero, dtype_of(fmt))),
        ]
        q = ir.node("QuantizeLinear", [value, *constants], name=f"{name}/quantize")
        d = ir.node("DequantizeLinear", [q.outputs[0], *constants], name=f"{name}/dequantize")
        q.outputs[0].name, d.outputs[0].name = f"{name}/stored", f"{name}/real"
        d.outputs[0].type, d.outputs[0].shape = value.type, value.shape
        self.body.extend([q, d])
        for user, index in users:
            user.replace_input_with(index, d.outputs[0])
        for index, output in enumerate(self.body.outputs):
            if output is value:
                value.name, d.outputs[0].name = f"{name}/accumulated", name
                self.body.outputs[index] = d.outputs[0]

    def quantise_weight(self, node: ir.Node) -> None:
        value = node.inputs[1]
        if value is None or value.const_value is None:
            return
        if str(value.name) not in self.weights:
            array = value.const_value.numpy().astype(np.float64)
            axis = array.ndim - 1 if node.op_type == "MatMul" else 0
            if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0):
                axis = 1
            self.weights[str(value.name)] = self._weight(str(value.name), array, axis)
        node.replace_input_with(1, self.weights[str(value.name)])

    def _weight(self, name: str, array: Array, axis: int) -> ir.Value:
        a, fmt = self.arithmetic, Format(self.arithmetic.weight_bits)
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) if a.per_channel else array.reshape(1, -1)
        scales = np.array([_scale((-float(m), float(m)), fmt, a)[0] for m in np.abs(rows).max(axis=1)])
        if self.fixed_scale is not None:
            scales = np.full_like(scales, self.fixed_scale)
        scales = scales.astype(np.float32)
        shape = [-1 if i == axis else 1 for i in range(array.ndim)] if a.per_channel else [1] * array.ndim
        codes = np.rint(array / scales.reshape(shape)).clip(fmt.lowest, fmt.highest).astype(dtype_of(fmt))
        scale = self.constant(f"{name}/scale", scales if a.per_channel else scales[0])
        zero = self.constant(f"{name}/zero", np.zeros(scales.shape if a.per_channel else (), dtype_of(fmt)))
        inputs = [self.constant(f"{name}/stored", codes), scale, zero]
        node = ir.node("DequantizeLinear", inputs, {"axis": axis} if a.per_channel else None, name=f"{name}/dequantize")
        node.outputs[0].name = f"{name}/real"
        node.outputs[0].shape, node.outputs[0].type = ir.Shape(array.shape), ir.TensorType(ir.DataType.FLOAT)
        self.body.extend([node])
        return node.outputs[0]

    def constant(self, name: str, array: Array) -> ir.Value:
        tensor = ir.tensor(array, name=name)
        value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
        self.body.register_initializer(value)
        return value


def _scale(limits: tuple[float, float], fmt: Format, a: Arithmetic) -> tuple[float, int]:
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if a.zero_points:
        scale = float(np.float32((high - low) / (2**fmt.bits - 1))) or 1.0
        return scale, int(np.clip(round(fmt.lowest - low / scale), fmt.lowest, fmt.highest))
    reach = max(high, -low) / fmt.highest or 1.0
    if a.scales == "power_of_two":
        return 2.0 ** ceil(log2(reach)), 0
    return float(np.float32(reach)), 0


def observed(graph: Graph, samples: Sequence[Mapping[str, Array]]) -> dict[str, tuple[float, float]]:
    """Ranges of every tensor of :func:`places` over some inputs, by ONNX Runtime in floats."""
    import onnxruntime

    names = places(graph)
    model = graph.edit()
    known = {str(v.name): v for node in model.graph for v in node.outputs}
    given = {s.name for s in graph.inputs}
    already = {str(v.name) for v in model.graph.outputs}
    for name in names:
        if name not in given and name not in already:
            known[name].type = known[name].type or ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(known[name])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = graph.with_model(model).proto().SerializeToString()
    session = onnxruntime.InferenceSession(proto, options, providers=["CPUExecutionProvider"])
    found: dict[str, tuple[float, float]] = {}
    for sample in samples:
        values = dict(zip([v.name for v in session.get_outputs()], session.run(None, dict(sample)), strict=True))
        for name in names:
            array = sample[name] if name in given else values[name]
            low, high = found.get(name, (0.0, 0.0))
            found[name] = min(low, float(array.min())), max(high, float(array.max()))
    return found
