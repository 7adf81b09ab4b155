"""ONNX graphs over codes: every tensor ``stored - lowest`` as uint8, images with channels last."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stagekit_fixedpoint.arithmetic import Requantize, dtype_of
from stagekit_fixedpoint.program import Array, Tensor

CONTRIB = "com.microsoft"


class OnnxBuilder:
    """Collects nodes and constants of a uint8 graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}
        self.inputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, shape: Sequence[int]) -> None:
        dims: list[str | int | None] = ["n", *shape[1:]]
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.UINT8, dims))

    def constant(self, array: Any, dtype: Any) -> str:
        value = np.asarray(array, dtype)
        name = f"c{len(self.constants)}"
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def weight(self, array: Array, channels: Sequence[int]) -> tuple[str, str]:
        """Names of an 8-bit weight and its zero points, of shape ``channels``; signed where kernels take it whole."""
        if signed_weights_are_exact():
            return self.constant(array, np.int8), self.constant(np.zeros(channels), np.int8)
        codes, zeros = np.asarray(array, np.int16) + 128, np.full(channels, 128)
        return self.constant(codes, np.uint8), self.constant(zeros, np.uint8)

    def node(self, op: str, inputs: Sequence[str], output: str, domain: str = "", **attributes: Any) -> None:
        self.nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attributes))

    def add(self, a: str, b: str, scales: Sequence[float], zeros: Sequence[int], output: str) -> None:
        """QLinearAdd with the output's scale 1."""
        parts = [a, self.constant(scales[0], np.float32), self.constant(zeros[0], np.uint8)]
        parts += [b, self.constant(scales[1], np.float32), self.constant(zeros[1], np.uint8)]
        parts += [self.constant(1, np.float32), self.constant(zeros[2], np.uint8)]
        self.node("QLinearAdd", parts, output, CONTRIB)

    def clamp(self, x: str, stage: Requantize, output: str) -> None:
        """The clamp of a folded activation, on codes."""
        low, high = stage.low - stage.format.lowest, stage.high - stage.format.lowest
        self.node("Clip", [x, self.constant(max(low, 0), np.uint8), self.constant(min(high, 255), np.uint8)], output)

    def session(self, outputs: Sequence[str], threads: int) -> Any:
        import onnxruntime

        ends = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in outputs]
        body = helper.make_graph(self.nodes, "segment", self.inputs, ends, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid(CONTRIB, 1)]
        model = helper.make_model(body, opset_imports=opsets, ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 4
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )


@cache
def signed_weights_are_exact() -> bool:
    """Whether this processor multiplies unsigned by signed bytes without saturating sums of two in 16 bits.

    Those with AVX2 alone do saturate; unsigned weights take another kernel there, which is slower and exact.
    """
    net = OnnxBuilder()
    net.input("x", (1, 64))
    one, zero = net.constant(1, np.float32), net.constant(0, np.uint8)
    scale, signed = net.constant(2.0**-13, np.float32), net.constant(0, np.int8)
    weight, bias = net.constant(np.full((64, 8), 127), np.int8), net.constant(np.zeros(8), np.int32)
    net.node("QGemm", ["x", one, zero, weight, scale, signed, bias, one, zero], "y", CONTRIB)
    found = net.session(("y",), 1).run(None, {"x": np.full((1, 64), 255, np.uint8)})[0]
    return bool((found == round(64 * 255 * 127 / 2**13)).all())


def stored_shape(tensor: Tensor) -> tuple[int, ...]:
    """With a batch of 1, channels last for images."""
    s = tensor.shape
    return (1, s[1], s[2], s[0]) if len(s) == 3 else (1, *s)


def encoded(array: Array, tensor: Tensor) -> Array:
    """Codes: ``stored - lowest`` as uint8; a three-dimensional tensor as an image with channels last."""
    codes = array.view(np.uint8) if array.dtype.itemsize == 1 else array.astype(dtype_of(tensor.format)).view(np.uint8)
    if tensor.format.signed:
        codes = codes ^ np.uint8(128)
    return np.ascontiguousarray(codes.transpose(0, 2, 3, 1) if codes.ndim == 4 else codes)


def decoded(codes: Array, tensor: Tensor) -> Array:
    """The inverse of :func:`encoded`; an image comes back as a view in the graph's order of axes."""
    stored = (codes ^ np.uint8(128)).view(np.int8) if tensor.format.signed else codes
    return stored.transpose(0, 3, 1, 2) if stored.ndim == 4 else stored
