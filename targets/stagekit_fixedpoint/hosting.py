"""Rules for what a device leaves to the host beside it: pieces of the float graph between two stored tensors."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.program import Array, Tensor
from stagekit_fixedpoint.values import Constant, Hosted, Refused, Stored, Tabulated


def hosted(builder: Builder, node: ir.Node, why: Refused) -> Hosted:
    """The node, joined with host nodes that it reads from, as a value that waits for its QuantizeLinear.

    Raises:
        Refused: ``why``, where the node cannot be on the host either: it gives several tensors or one of unknown
            shape, or reads something that the device never stores.
    """
    dims = node.outputs[0].shape
    if len(node.outputs) != 1 or dims is None or not all(isinstance(d, int) for d in list(dims)[1:]):
        raise why
    nodes: dict[str, ir.Node] = {}
    sources: dict[str, Tensor] = {}
    constants: dict[str, Array] = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        found, name = builder.value(node, index), str(value.name)
        if isinstance(found, Stored) and not found.joined and not found.tensor.exponents:
            sources[name] = found.tensor
        elif isinstance(found, Constant):
            constants[name] = found.real.astype(np.float32 if found.real.dtype.kind == "f" else np.int64)
        elif isinstance(found, Hosted | Tabulated):
            before = value.producer()
            if isinstance(found, Tabulated) and before is not None:  # an expression that is no step yet
                found = hosted(builder, before, why)
            if not isinstance(found, Hosted):
                raise why
            nodes |= found.nodes
            sources |= found.sources
            constants |= found.constants
        else:
            raise why
    shape = tuple(d for d in list(dims)[1:] if isinstance(d, int))
    return Hosted({**nodes, str(node.outputs[0].name): node}, sources, constants, shape)


def emit(builder: Builder, value: Hosted, out: Tensor) -> None:
    """The step, with its float graph among the program's arrays."""
    nodes, end = list(value.nodes.values()), list(value.nodes)[-1]
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", *t.shape]) for n, t in value.sources.items()]
    result = [helper.make_tensor_value_info(end, TensorProto.FLOAT, ["n", *value.shape])]
    weights = [numpy_helper.from_array(array, name) for name, array in value.constants.items()]
    body = helper.make_graph([ir.to_proto(n) for n in nodes], "host", inputs, result, weights)
    imports = [helper.make_opsetid(d, v) for d, v in builder.graph.model.opset_imports.items()]
    data = helper.make_model(body, opset_imports=imports, ir_version=10).SerializeToString(deterministic=True)
    name = str(nodes[-1].name)
    key = builder.array(f"{name}/model", np.frombuffer(data, np.uint8))
    builder.emit(p.Host(name, tuple(t.name for t in value.sources.values()), out.name, key, tuple(value.sources)))
