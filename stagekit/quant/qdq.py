"""A float graph to a Q/DQ graph: QuantizeLinear and DequantizeLinear at given positions, nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph import Graph
from stagekit.graph.constants import add_constant
from stagekit.graph.fingerprint import in_order
from stagekit.graph.model import IR_DTYPES
from stagekit.graph.spec import DTYPES, Quantization
from stagekit.quant.formats import Array, NumberFormat, quantise
from stagekit.quant.opset import raised
from stagekit.quant.positions import MOVES, PRODUCTS, Positions, bias_reader, weight_of
from stagekit.quant.rounding import quantise_weight, taps_apart
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.weights import weight_quantization

OPSET = {"int8": 13, "uint8": 13, "int16": 21}
"""The first opset whose QuantizeLinear gives this type, per channel where needed."""


def insert_qdq(
    graph: Graph, positions: Positions, quantizations: Mapping[str, Quantization], scheme: QuantScheme
) -> Graph:
    """The graph with Q/DQ pairs; boundary tensors among the positions become integers.

    A float reader of a quantised tensor goes on reading floats. Weights are stored as integers under a DQ.

    Args:
        quantizations: by the names of the tensors that the positions take their scales from.

    Raises:
        GraphError: its opset has no Q/DQ of the scheme's types.
    """
    edit = _Edit(graph, scheme, positions)
    values = {str(v.name): v for v in [*edit.body.inputs, *(o for n in edit.body for o in n.outputs)]}
    nodes = [n for n in in_order(edit.body) if str(n.name) in positions.nodes]
    for node in nodes:
        if node.op_type in PRODUCTS:
            source = positions.tensors.get(str(node.inputs[0].name)) if node.inputs[0] is not None else None
            edit.weights(node, quantizations[source] if source else None)
    for name, source in positions.tensors.items():
        if name in positions.integer_inputs:
            edit.input(values[name], quantizations[source])
        else:
            edit.activation(values[name], quantizations[source])
    edit.drop_unused()
    return replace(graph, model=edit.model)


def with_integer_edges(graph: Graph, edges: Mapping[str, tuple[str, Quantization]]) -> Graph:
    """A float graph (an SPM, a head) that takes and gives integers at the named edges.

    Args:
        edges: (element type, quantisation) by the name of an input or output; one type for all.
    """
    if not edges:
        return graph
    narrow = min((dtype for dtype, _ in edges.values()), key=OPSET.__getitem__)
    wide = frozenset(name for name, (dtype, _) in edges.items() if dtype != narrow)
    form = NumberFormat(max((dtype for dtype, _ in edges.values()), key=OPSET.__getitem__), symmetric=True)
    scheme = QuantScheme(NumberFormat(narrow, symmetric=True), wide=form)
    edit = _Edit(graph, scheme, Positions({}, frozenset(), wide=wide))
    for value in [v for v in edit.body.inputs if str(v.name) in edges]:
        edit.input(value, edges[str(value.name)][1])
    for value in [v for v in edit.body.outputs if str(v.name) in edges]:
        edit.output(value, edges[str(value.name)][1])
    return replace(graph, model=edit.model)


@dataclass
class _Edit:
    """A copy of a graph under change."""

    graph: Graph
    scheme: QuantScheme
    positions: Positions
    model: ir.Model = field(init=False)
    _weights: dict[tuple[str, Quantization], ir.Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        version = self.graph.model.opset_imports.get("", 0)
        forms = [self.scheme.activation, self.scheme.weight, *([self.scheme.wide] if self.positions.wide else [])]
        needed = max(OPSET[form.dtype] for form in forms if form is not None)
        if version >= needed:
            self.model = self.graph.edit()
            return
        model = raised(self.graph, needed)
        if model is None:
            raise GraphError(
                f"its opset is {version}; 16-bit integers need {needed}",
                where=self.graph.source,
                remedy="convert it with onnx.version_converter, or choose an 8-bit type",
            )
        self.model = model

    @property
    def body(self) -> ir.Graph:
        return self.model.graph

    def input(self, old: ir.Value, quantization: Quantization) -> None:
        """An integer input of the same name, and a DQ that all readers of the old one read."""
        name = str(old.name)
        form = self.scheme.form(name, self.positions)
        new = ir.val(name, IR_DTYPES[form.dtype], old.shape)
        dequantised = self._node("DequantizeLinear", new, quantization, form, name)
        first = next(iter(self.body))
        old.name = f"{name}/unused"
        old.replace_all_uses_with(dequantised.outputs[0], replace_graph_outputs=True)
        self.body.inputs[list(self.body.inputs).index(old)] = new
        self.body.insert_before(first, dequantised)

    def output(self, old: ir.Value, quantization: Quantization) -> ir.Node:
        """An integer output of the same name; returns its Q node."""
        name = str(old.name)
        old.name = f"{name}/float"
        quantised = self._node("QuantizeLinear", old, quantization, self.scheme.form(name, self.positions), name)
        quantised.outputs[0].name = name
        self.body.outputs[list(self.body.outputs).index(old)] = quantised.outputs[0]
        self.body.append(quantised)
        return quantised

    def activation(self, value: ir.Value, quantization: Quantization) -> None:
        """Q and DQ behind a tensor, for those of its readers that compute in integers or move them."""
        name = str(value.name)
        form = self.scheme.form(name, self.positions)
        readers = [(user, index) for user, index in value.uses() if _reads_integers(user, self.positions)]
        if value.is_graph_output():
            quantised = self.output(value, quantization)
        elif readers:
            quantised = self._node("QuantizeLinear", value, quantization, form, name)
            producer = value.producer()
            if producer is None:
                self.body.insert_before(next(iter(self.body)), quantised)
            else:
                self.body.insert_after(producer, quantised)
        else:
            return
        if readers:
            dequantised = self._node("DequantizeLinear", quantised.outputs[0], quantization, form, name)
            self.body.insert_after(quantised, dequantised)
            for user, index in readers:
                user.replace_input_with(index, dequantised.outputs[0])

    def weights(self, node: ir.Node, data: Quantization | None) -> None:
        """Integers under a DQ in place of a product's weight and, if the scheme says so, of its bias."""
        tensor = weight_of(node.inputs[1])
        if tensor is None:
            return
        value = node.inputs[1]
        assert value is not None
        array = tensor.numpy().astype(np.float32)
        quantization = weight_quantization(node, array, data, self.scheme)
        key = (str(value.name), quantization)
        if key not in self._weights:
            name = f"{value.name}/{node.name}" if any(known == key[0] for known, _ in self._weights) else key[0]
            stored = quantise_weight(array, quantization, self.scheme, taps_apart(node))
            self._weights[key] = self._constant(name, stored, quantization, self.scheme.weight, node)
        node.replace_input_with(1, self._weights[key])
        if self.scheme.bias == "int32" and data is not None:
            self._bias(node, data, quantization)

    def _bias(self, node: ir.Node, data: Quantization, weight: Quantization) -> None:
        """int32 on the scale of the products, as integer kernels add it; a MatMul's is the Add behind it."""
        reader = bias_reader(node)
        value = reader[0].inputs[reader[1]] if reader else None
        bias = weight_of(value)
        if reader is None or value is None or bias is None or not _is_plain_bias(node, bias):
            return
        if bias.size != len(weight.scale) and len(weight.scale) > 1:
            return
        scales = np.broadcast_to(np.asarray(weight.scale), (bias.size,))
        product = Quantization(tuple(float(np.float32(data.scale[0] * s)) for s in scales), (0,) * bias.size, 0)
        form = NumberFormat("int32", symmetric=True)
        stored = quantise(bias.numpy(), product, form)
        constant = self._constant(f"{value.name}/{node.name}", stored, product, form, node)
        reader[0].replace_input_with(reader[1], constant)

    def drop_unused(self) -> None:
        """Float weights that integers replaced."""
        for name, value in list(self.body.initializers.items()):
            if not value.uses() and not value.is_graph_output():
                del self.body.initializers[name]

    def _constant(
        self, name: str, stored: Array, quantization: Quantization, form: NumberFormat, before: ir.Node
    ) -> ir.Value:
        value = self._initializer(f"{name}/quantised", stored)
        node = self._node("DequantizeLinear", value, quantization, form, name)
        self.body.insert_before(before, node)
        return node.outputs[0]

    def _node(self, op: str, value: ir.Value, quantization: Quantization, form: NumberFormat, name: str) -> ir.Node:
        what, dtype = ("q", IR_DTYPES[form.dtype]) if op == "QuantizeLinear" else ("dq", ir.DataType.FLOAT)
        zero = np.asarray(quantization.zero_point, DTYPES[form.dtype])
        scale = np.asarray(quantization.scale, np.float32)
        if quantization.axis is None:
            zero, scale = zero[0], scale[0]
        constants = [self._initializer(f"{name}/scale", scale), self._initializer(f"{name}/zero", zero)]
        axis = {} if quantization.axis is None else {"axis": quantization.axis}
        node = ir.node(op, [value, *constants], axis, name=f"{name}/{what}")
        result = node.outputs[0]
        result.name, result.type, result.shape = f"{name}/{what}", ir.TensorType(dtype), value.shape
        return node

    def _initializer(self, name: str, array: Array) -> ir.Value:
        known = self.body.initializers.get(name)
        if known is not None:
            return known
        return add_constant(self.body, name, np.asarray(array))


def _reads_integers(node: ir.Node, positions: Positions) -> bool:
    moves = node.op_type in MOVES and any(str(v.name) in positions.tensors for v in node.outputs)
    return moves or str(node.name) in positions.nodes


def _is_plain_bias(node: ir.Node, bias: ir.TensorProtocol) -> bool:
    """One number a channel, added as it is."""
    return len(bias.shape) == 1 and (node.op_type != "Gemm" or node.attributes.get_float("beta", 1.0) == 1.0)
