"""Work that a device leaves to the host beside it: a piece of the float graph between two stored tensors.

The host reads the device's integers as the real numbers that they stand for, computes in float32 with ONNX Runtime,
and writes integers as ONNX's QuantizeLinear does. It is no part of the arithmetic specification, nor of the modelled
time; all interpreters share what is written here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint.arithmetic import Ints
from stagekit_fixedpoint.builder import Builder
from stagekit_fixedpoint.program import Array, Program, Tensor
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


def compute(program: Program, step: p.Host, arrays: Sequence[Array]) -> Ints:
    """The step's output, int64."""
    reals = {
        name: ((array.astype(np.float64) - tensor.zero_point) * tensor.scale).astype(np.float32)
        for name, array, tensor in zip(step.names, arrays, (program.tensors[n] for n in step.inputs), strict=True)
    }
    real = _run(program.arrays[step.model].astype(np.uint8).tobytes(), reals)
    out = program.tensors[step.output]
    codes = np.rint(real / np.float32(out.scale)).astype(np.int64) + out.zero_point
    return np.asarray(np.clip(codes, out.format.lowest, out.format.highest), np.int64)


def _run(model: bytes, reals: Mapping[str, Array]) -> Array:
    return np.asarray(_session(model).run(None, dict(reals))[0])


@lru_cache(maxsize=256)
def _session(model: bytes) -> Any:
    """On one thread, so that float sums have one order."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
