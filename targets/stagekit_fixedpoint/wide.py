"""16-bit products on 8-bit kernels, for devices that truncate and wrap (``ap_fixed``'s defaults).

``floor(acc / 2**s)`` kept to 16 bits depends on the low ``s + 16`` bits of the sum alone, so that with ``s <= 16`` the
sum may be computed modulo ``2**32``. Inputs and weights are split into bytes, ``x = 256 xh + xl``; one 8-bit matrix
product of the stacked parts gives all four partial sums in int32, which are shifted and added with wrap-around.
The high bytes are stored with an offset of 128; what that adds is a constant of each channel and taken off the bias.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from stagekit_fixedpoint import program as p
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.blas import taps
from stagekit_fixedpoint.program import Array, Program, Step, Tensor

INT16 = Format(16)


def proven(program: Program, step: Step) -> str:
    """Why the step is exact here; empty when it is not."""
    if not isinstance(step, p.Convolution | p.Linear) or program.accumulator_overflow == "saturate":
        return ""
    stage, x, weight = step.requantize, program.tensors[step.inputs[0]], program.arrays[step.weight]
    plain = stage.rescale.style != "double" and set(stage.rescale.multiplier) == {1} and len(stage.rescale.shift) == 1
    formats = x.format == stage.format == INT16 and x.zero_point == stage.zero_point == 0
    groups = step.groups if isinstance(step, p.Convolution) else 1
    fits = int(weight.min()) >= -(2**15) and int(weight.max()) < 2**15 - 128
    if not (plain and formats and fits and groups == 1 and 0 <= stage.rescale.shift[0] <= 16):
        return ""
    if stage.rescale.rounding != "floor" or stage.overflow != "wrap" or self_test():
        return ""
    return "truncated and wrapped results need the low 32 bits of the sum alone, from 8-bit products"


def prepare(program: Program, step: p.Convolution | p.Linear, threads: int) -> Callable[[Array], Array]:
    """The step as a function of its stored input; images may come in any memory order."""
    weight = program.arrays[step.weight]
    matrix = weight.transpose(2, 3, 1, 0).reshape(-1, len(weight)) if isinstance(step, p.Convolution) else weight
    low = ((matrix + 128) & 255) - 128
    parts = [low, (matrix - low) >> 8] if np.any(matrix != low) else [low]
    session = _product(np.concatenate(parts, axis=1).astype(np.int8), threads)
    offset = program.arrays[step.bias] - (matrix.sum(axis=0) << 15)
    bias = (offset & 0xFFFFFFFF).astype(np.uint32).view(np.int32)

    def compute(x: Array) -> Array:
        if isinstance(step, p.Convolution):
            rows, shape = _gathered(x, step, (weight.shape[2], weight.shape[3]))
        else:
            rows, shape = _bytes(x).reshape(2, -1, x.shape[-1]), x.shape[:-1]
        sums = session.run(None, {"a": rows.reshape(-1, rows.shape[-1])})[0].reshape(2, -1, len(parts), len(bias))
        total = sums[0, :, 0] + bias
        middle = sums[1, :, 0]
        if len(parts) > 1:
            middle = middle + sums[0, :, 1]
            total += sums[1, :, 1] << 16
        total += middle << 8
        total >>= step.requantize.rescale.shift[0]
        stored: Array = total.astype(np.int16).reshape(*shape, -1)
        low_end, high_end = step.requantize.low, step.requantize.high
        if (low_end, high_end) != (INT16.lowest, INT16.highest):
            np.clip(stored, low_end, high_end, out=stored)
        return stored.transpose(0, 3, 1, 2) if isinstance(step, p.Convolution) else stored

    return compute


def _bytes(x: Array) -> Array:
    """(2, ...): the low bytes, and the high bytes with an offset of 128."""
    pairs = np.ascontiguousarray(x, dtype="<i2").view(np.uint8).reshape(*x.shape, 2)
    return np.stack([pairs[..., 0], pairs[..., 1] ^ np.uint8(128)])


def _gathered(x: Array, step: p.Convolution, kernel: tuple[int, int]) -> tuple[Array, tuple[int, ...]]:
    """(2, places, taps * channels) bytes, and (batch, height, width) of the output."""
    image = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    if any(step.pads):
        top, left, bottom, right = step.pads
        image = np.pad(image, ((0, 0), (top, bottom), (left, right), (0, 0)))
    both = _bytes(image)
    planes = both.reshape(-1, *both.shape[2:])
    views = taps(planes, step, kernel)
    columns = views[0] if len(views) == 1 else np.concatenate(views, axis=-1)
    batch, height, width, terms = columns.shape
    return np.ascontiguousarray(columns).reshape(2, -1, terms), (batch // 2, height, width)


def _product(matrix: Array, threads: int) -> Any:
    """A session that multiplies unsigned bytes ``a`` by a constant matrix of signed bytes into int32."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    a = helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", matrix.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, ["n", matrix.shape[1]])
    node = helper.make_node("MatMulInteger", ["a", "b"], ["y"])
    graph = helper.make_graph([node], "product", [a], [y], [numpy_helper.from_array(matrix, "b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def self_test() -> str:
    """What this processor's 8-bit matrix product gets wrong on extreme and random bytes; nothing, as a rule."""
    random = np.random.default_rng(1)
    for ends in (True, False):
        a = random.choice([0, 255], (40, 300)) if ends else random.integers(0, 256, (40, 300))
        b = random.choice([-128, 127], (300, 24)) if ends else random.integers(-128, 128, (300, 24))
        found = _product(b.astype(np.int8), 1).run(None, {"a": a.astype(np.uint8)})[0]
        if not np.array_equal(found, a @ b):
            return "the 8-bit matrix product"
    stage = Requantize(Rescale((1,), (10,), "floor"), INT16, 0, -(2**15), 2**15 - 1, "wrap")
    step = p.Linear("probe", ("x",), "y", "w", "b", stage)
    tensors = {n: Tensor(n, s, INT16, 1.0) for n, s in (("x", (50,)), ("y", (9,)))}
    arrays = {"w": random.integers(-(2**15), 2**15 - 128, (50, 9)), "b": random.integers(-(2**30), 2**30, 9)}
    program = Program("probe", ("x",), ("y",), tensors, (step,), arrays, 48, "wrap")
    x = random.integers(-(2**15), 2**15, (8, 50))
    wanted = reference.run(program, {"x": x})["y"]
    return "" if np.array_equal(prepare(program, step, 1)(x.astype(np.int16)), wanted) else "sums modulo 2**32"
