"""From f32 to fp16 or bf16 types: TensorRT takes the precision of every layer from the types in the ONNX file.

Products and everything around them are computed in half; what adds many numbers or spreads their range stays in
f32, as NVIDIA's AutoCast does it (https://nvidia.github.io/Model-Optimizer/guides/8_autocast.html): softmax,
normalisation and reductions, and the frame's own normalisation. A graph keeps the types of its edges.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import ml_dtypes
import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir

from stagekit.errors import CompileError
from stagekit.graph import Graph, from_proto
from stagekit.graph.fingerprint import in_order
from stagekit.graph.shapes import inferred

FLOAT = ir.DataType.FLOAT

HALVES = {
    "fp16": (ir.DataType.FLOAT16, np.dtype(np.float16), 19),
    "bf16": (ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16), 22),
}
"""Element type, numpy type, and the first opset in which convolutions, pooling and Q/DQ take it."""

REDUCTIONS = frozenset(
    {
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd"),
        *("ReduceLogSum", "ReduceLogSumExp", "CumSum"),
    }
)
SENSITIVE = REDUCTIONS | {
    *("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization", "InstanceNormalization"),
    *("GroupNormalization", "LpNormalization", "BatchNormalization", "Exp", "Log", "Pow", "Sqrt", "Reciprocal"),
}
"""Computed in f32."""

AFTER_REDUCTION = frozenset({"Add", "Sub", "Div", "Sqrt", "Reciprocal", "Pow"})
"""In f32 too where an input comes from a reduction or its root: the rest of a normalisation written out."""

NORMALISING = frozenset({"Cast", "Transpose", "Reshape", "Unsqueeze", "Squeeze", "Add", "Sub", "Mul", "Div"})
"""Steps from integer pixels to normalised ones, if nothing but constants comes in beside them."""

CHANGED_SINCE_18 = frozenset({"GridSample", "DFT"})
"""Operators whose attributes take other values in opset 22 than in 18."""


def in_half(graph: Graph, precision: str) -> Graph:
    """The same function computed in ``fp16`` or ``bf16``, with Casts where the type changes.

    Infinite or huge constants such as attention masks become the largest half.

    Raises:
        CompileError: a weight does not fit into the type's range.
    """
    model = _at_opset(graph, HALVES[precision][2])
    return graph.with_model(_Conversion(model, graph.source, precision).run())


def exact_nodes(body: ir.Graph) -> set[int]:
    """``id`` of the nodes that are computed in f32."""
    exact: set[int] = set()
    spread: set[int] = set()  # values that come from a reduction or a root
    pixels = {id(v) for v in body.inputs if v.dtype is not None and v.dtype.is_integer()}
    for node in in_order(body):
        sources = [v for v in node.inputs if v is not None]
        varying = [v for v in sources if v.const_value is None]
        if node.op_type in NORMALISING and varying and all(id(v) in pixels for v in varying):
            pixels.update(id(v) for v in node.outputs)
            exact.add(id(node))
        follows = node.op_type in AFTER_REDUCTION and any(id(v) in spread for v in sources)
        if node.op_type in SENSITIVE or follows:
            exact.add(id(node))
        if node.op_type in REDUCTIONS | {"Pow", "Sqrt", "Reciprocal"} or (follows and node.op_type != "Div"):
            spread.update(id(v) for v in node.outputs)
        if not any(v.dtype == FLOAT for v in sources):
            exact.add(id(node))
    return exact


class _Conversion:
    """One run over one model, which it changes."""

    def __init__(self, model: ir.Model, source: str, precision: str) -> None:
        self.model = model
        self.body = model.graph
        self.source = source
        self.half, self.numpy_type, _ = HALVES[precision]
        self.limit = float(ml_dtypes.finfo(self.numpy_type).max)  # type: ignore[no-untyped-call]
        self.made: dict[tuple[int, ir.DataType], ir.Value] = {}

    def run(self) -> ir.Model:
        exact = exact_nodes(self.body)
        edges = [(v, v.dtype, str(v.name)) for v in self.body.outputs]
        for node in in_order(self.body):
            if node.op_type == "Cast":
                continue
            wanted = FLOAT if id(node) in exact else self.half
            for index in _changeable(node, self.half, self.body.opset_imports[""]):
                value = node.inputs[index]
                if value is not None and value.dtype in (FLOAT, self.half):
                    node.replace_input_with(index, self._as(value, wanted, node))
            for value in node.outputs:
                if value.dtype == FLOAT:
                    value.type = ir.TensorType(wanted)  # a new one: copies of a graph share their types
        for index, (value, dtype, name) in enumerate(edges):
            if dtype is not None and value.dtype != dtype:
                value.name = f"{name}/half"
                self.body.outputs[index] = self._cast(value, dtype, name)
        self._drop_unused()
        return self.model

    def _as(self, value: ir.Value, wanted: ir.DataType, user: ir.Node) -> ir.Value:
        """The value in the wanted type; each conversion is made once."""
        if value.dtype == wanted:
            return value
        key = (id(value), wanted)
        if key not in self.made:
            producer = value.producer()
            if value.const_value is not None and value.is_initializer():
                self.made[key] = self._constant(value, value.const_value, wanted, user)
            elif producer is not None and producer.op_type == "Cast" and _type(producer.inputs[0]) == wanted:
                self.made[key] = producer.inputs[0]  # type: ignore[assignment]  # a Cast has an input
            else:
                self.made[key] = self._cast(value, wanted, f"{value.name}/{wanted.name.lower()}")
        return self.made[key]

    def _cast(self, value: ir.Value, to: ir.DataType, name: str) -> ir.Value:
        node = ir.node("Cast", [value], {"to": int(to)}, name=f"{name}/cast")
        out = node.outputs[0]
        out.name, out.type, out.shape = name, ir.TensorType(to), value.shape
        producer = value.producer()
        if producer is not None:
            self.body.insert_after(producer, [node])
        else:
            self.body.insert_before(next(iter(self.body)), [node])
        return out

    def _constant(self, value: ir.Value, tensor: ir.TensorProtocol, to: ir.DataType, user: ir.Node) -> ir.Value:
        array = tensor.numpy().astype(np.float32)
        largest = float(np.abs(array[np.isfinite(array)]).max(initial=0.0))
        mask = user.op_type in ("Add", "Sub", "Where", "Clip", "Max", "Min", "Pad")
        if largest > self.limit and not mask:
            raise CompileError(
                f"weight {value.name!r} of node {user.name!r} holds {largest:.3g}; {to.name} ends at {self.limit:.5g}",
                where=self.source,
                remedy="use a bf16 or f32 profile",
            )
        name = f"{value.name}/{to.name.lower()}"
        content = np.clip(array, -self.limit, self.limit).astype(self.numpy_type)
        converted = ir.Value(
            name=name,
            shape=ir.Shape(content.shape),
            type=ir.TensorType(to),
            const_value=ir.Tensor(content, dtype=to, name=name),
        )
        self.body.register_initializer(converted)
        return converted

    def _drop_unused(self) -> None:
        for node in reversed(list(self.body)):
            if node.op_type == "Cast" and not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                self.body.remove(node, safe=True)
        for name in [n for n, v in self.body.initializers.items() if not v.uses() and not v.is_graph_output()]:
            del self.body.initializers[name]


def _changeable(node: ir.Node, half: ir.DataType, opset: int) -> Iterable[int]:
    """The inputs whose element type the operator leaves open and half precision may fill (Resize's scales: no)."""
    if node.domain not in ("", "ai.onnx"):
        return []
    takes = _takes(node.op_type, opset, half)
    return [i for i in range(len(node.inputs)) if takes[min(i, len(takes) - 1)]]


@cache  # onnx makes these anew at every question
def _takes(operator: str, opset: int, half: ir.DataType) -> tuple[bool, ...]:
    """Whether an operator's inputs may be in half, by its definition; the last may stand for several."""
    schema = onnx.defs.get_schema(operator, opset)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}
    return tuple(f"tensor({half.name.lower()})" in allowed.get(i.type_str, ()) for i in schema.inputs)


def _type(value: ir.Value | None) -> ir.DataType | None:
    return None if value is None else value.dtype


def _at_opset(graph: Graph, least: int) -> ir.Model:
    """A copy with an opset of at least ``least``; onnx's own converter rewrites the operators that changed.

    Raises:
        CompileError: it cannot.
    """
    opset = graph.body.opset_imports[""]
    if opset >= least:
        return graph.edit()
    if all(_only_gained_types(node, opset, least) for node in graph.body):
        model = graph.edit()
        model.graph.opset_imports[""] = least
        model.ir_version = max(model.ir_version or 0, 10)
        return model
    try:
        converted = onnx.version_converter.convert_version(graph.proto(), least)
    except Exception as error:  # the converter raises whatever its C++ side throws
        raise CompileError(
            f"it is written for opset {opset}, this precision needs {least}: {error}",
            where=graph.source,
            remedy=f"export with opset {least}",
        ) from error
    return inferred(graph.with_model(from_proto(converted, graph.source).model)).edit()


def _only_gained_types(node: ir.Node, opset: int, least: int) -> bool:
    """Whether a node means the same in both opsets as it is written."""
    if node.op_type in CHANGED_SINCE_18 or node.domain not in ("", "ai.onnx"):
        return node.domain not in ("", "ai.onnx")
    (_, before), (attributes, after) = (_signature(node.op_type, version) for version in (opset, least))
    return set(node.attributes) <= attributes and before == after


@cache
def _signature(operator: str, opset: int) -> tuple[frozenset[str], int]:
    """The attributes of an operator and the number of its inputs."""
    schema = onnx.defs.get_schema(operator, opset)
    return frozenset(schema.attributes), len(schema.inputs)
