"""16-bit arithmetic on narrower kernels, for devices that truncate and wrap (``ap_fixed``'s defaults).

Inputs and weights are split into bytes, ``x = 256 xh + xl``; 8-bit matrix products of the parts give three partial
sums, ``acc = low + 256 middle + 65536 high``. What is stored are 16 bits of ``floor(acc / 2**s)``. With ``s <= 16``
they depend on the low 32 bits of the sum alone, which int32 keeps. Otherwise the low parts are carried upwards first,
which floors may be: ``floor(acc / 65536) = high + floor((middle + floor(low / 256)) / 256)``, and 32 bits of that do.
The high bytes are stored with an offset of 128; what that adds is a constant of each channel and taken off the bias.
Images are cut into bands of rows that stay in the cache. One thread does it all: of two, one waits for the other's
interpreter lock more than it helps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from stagekit.quant.unasked import ask_for_exact_products
from stagekit_fixedpoint import program as p
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.program import Array, Program, Step, Tensor

INT16 = Format(16)

BAND_BYTES = 2**19
"""Of partial sums that are in work at a time."""

MOST_TERMS = 2**15
"""So many products of bytes, twice, fit 32 bits."""


def proven(program: Program, step: Step) -> str:
    """Why the step is exact here; empty when it is not."""
    if not isinstance(step, p.Convolution | p.Linear | p.Add):
        return ""
    stage, tensors = step.requantize, [program.tensors[name] for name in step.inputs]
    formats = [(t.format, t.zero_point) for t in tensors] + [(stage.format, stage.zero_point)]
    if set(formats) != {(INT16, 0)} or not _shifts(stage.rescale, 0, 32):
        return ""
    if stage.rescale.rounding != "floor" or stage.overflow != "wrap":
        return ""
    if isinstance(step, p.Add):
        alike = len({t.shape for t in tensors}) == 1
        aligned = alike and not step.constant and not step.left and all(_shifts(r, -14, 0) for r in step.rescales)
        return "the sum of two shifted 16-bit values fits 32 bits" if aligned and stage.rescale.shift[0] < 32 else ""
    weight = program.arrays[step.weight]
    terms = weight[0].size if isinstance(step, p.Convolution) else len(weight)
    fits = int(weight.min()) >= -(2**15) and int(weight.max()) < 2**15 - 128 and terms <= MOST_TERMS
    groups = step.groups if isinstance(step, p.Convolution) else 1
    whole = program.accumulator_overflow == "forbid" or (
        program.accumulator_overflow == "wrap" and program.accumulator_bits >= stage.rescale.shift[0] + INT16.bits
    )
    if not fits or groups > 1 or not whole or self_test():
        return ""
    return "truncated and wrapped results need 32 bits of the sum alone, from 8-bit products"


def prepare(program: Program, step: p.Convolution | p.Linear | p.Add) -> Callable[[list[Array]], Array]:
    """The step as a function of its stored inputs; images may come in any memory order."""
    if isinstance(step, p.Add):
        return _sum(step)
    convolve = _Product(step, program.arrays[step.weight], program.arrays[step.bias])
    if isinstance(step, p.Convolution):
        return lambda arrays: convolve(arrays[0].transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)

    def multiply(arrays: list[Array]) -> Array:
        (x,) = arrays
        return convolve(x.reshape(1, -1, 1, x.shape[-1])).reshape(*x.shape[:-1], -1)

    return multiply


def _shifts(rescale: Rescale, least: int, most: int) -> bool:
    """Whether a rescale is one shift to the right by so many bits."""
    plain = rescale.style != "double" and set(rescale.multiplier) == {1} and len(rescale.shift) == 1
    return plain and least <= rescale.shift[0] <= most


def _sum(step: p.Add) -> Callable[[list[Array]], Array]:
    lefts = [-r.shift[0] for r in step.rescales]
    right = step.requantize.rescale.shift[0]
    # Without a shift to the right the low 16 bits are enough.
    kind = np.int32 if right else np.int16

    def compute(arrays: list[Array]) -> Array:
        terms: list[Array] = [x.astype(kind) for x in arrays]
        for term, left in zip(terms, lefts, strict=True):
            term <<= left
        total = terms[0]
        total += terms[1]
        total >>= right
        return _stored(total, step.requantize)

    return compute


def _stored(total: Array, stage: Requantize) -> Array:
    """The low 16 bits, inside the clamp."""
    stored: Array = total.astype(np.int16, copy=False)
    if (stage.low, stage.high) != (INT16.lowest, INT16.highest):
        np.clip(stored, stage.low, stage.high, out=stored)
    return stored


class _Product:
    """A convolution of images with channels last, (batch, height, width, channels) int16."""

    def __init__(self, step: p.Convolution | p.Linear, weight: Array, bias: Array) -> None:
        if isinstance(step, p.Convolution):
            self.kernel, self.strides, self.dilations = weight.shape[2:], step.strides, step.dilations
            self.pads, matrix = step.pads, weight.transpose(2, 3, 1, 0).reshape(-1, len(weight))
        else:
            self.kernel, self.strides, self.dilations, self.pads = (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)
            matrix = weight
        self.terms = len(matrix)
        low = ((matrix + 128) & 255) - 128
        parts = [low, (matrix - low) >> 8] if np.any(matrix != low) else [low]
        self.stage = step.requantize
        self.session = _products([part.astype(np.int8) for part in parts])
        offset = np.broadcast_to(bias, len(matrix.T)) - (matrix.sum(axis=0) << 15)
        self.channels = len(offset)
        self.offset = _low32(offset)
        self.offset_parts = _low32(offset & 0xFFFF), _low32(offset >> 16)

    def __call__(self, x: Array) -> Array:
        seen = self._windows(x)
        batch, height, width = seen.shape[1:4]
        out = np.empty((batch, height, width, self.channels), np.int16)
        rows = max(1, BAND_BYTES // (16 * width * self.channels))
        for image, top in product(range(batch), range(0, height, rows)):
            band = slice(top, top + rows)
            columns = seen[:, image, band].reshape(2, -1, self.terms)
            out[image, band] = self._band(columns).reshape(-1, width, self.channels)
        return out

    def _windows(self, x: Array) -> Array:
        """(2, batch, out h, out w, kh, kw, channels) bytes: the low ones, and the high ones with an offset of 128."""
        top, left, bottom, right = self.pads
        image = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))) if any(self.pads) else x
        both = np.empty((2, *image.shape), np.uint8)
        np.copyto(both[0], image, casting="unsafe")
        np.right_shift(image, 8, out=both[1].view(np.int8), casting="unsafe")
        both[1] ^= 128
        (sh, sw), (dh, dw), (kh, kw) = self.strides, self.dilations, self.kernel
        view = sliding_window_view(both, (dh * (kh - 1) + 1, dw * (kw - 1) + 1), axis=(2, 3))
        return view[:, :, ::sh, ::sw, :, ::dh, ::dw].transpose(0, 1, 2, 3, 5, 6, 4)

    def _band(self, columns: Array) -> Array:
        """(places, channels) stored from (2, places, terms)."""
        count = columns.shape[1]
        by_low, *by_high = self.session.run(None, {"a": columns.reshape(-1, self.terms)})
        low, middle, high = by_low[:count], by_low[count:], None
        for part in by_high:
            middle += part[:count]
            high = part[count:]
        shift = self.stage.rescale.shift[0]
        join = self._from_below if shift > 16 else self._from_above
        total = join(low, middle, high)
        total >>= shift - 16 if shift > 16 else shift
        return _stored(total, self.stage)

    def _from_above(self, low: Array, middle: Array, high: Array | None) -> Array:
        """The low 32 bits of the sum, with wrap-around."""
        if high is not None:
            high <<= 8
            middle += high
        middle <<= 8
        middle += low
        middle += self.offset
        return middle

    def _from_below(self, low: Array, middle: Array, high: Array | None) -> Array:
        """The low 32 bits of ``floor(sum / 65536)``."""
        low += self.offset_parts[0]
        low >>= 8
        middle += low
        middle >>= 8
        if high is not None:
            middle += high
        middle += self.offset_parts[1]
        return middle


def _low32(numbers: Array) -> Array:
    return (numbers & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def _products(matrices: list[Array]) -> Any:
    """A session that multiplies unsigned bytes ``a`` by constant matrices of signed bytes into int32."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    names = [str(index) for index in range(len(matrices))]
    a = helper.make_tensor_value_info("a", TensorProto.UINT8, ["n", matrices[0].shape[0]])
    ys = [helper.make_tensor_value_info(f"y{n}", TensorProto.INT32, ["n", matrices[0].shape[1]]) for n in names]
    nodes = [helper.make_node("MatMulInteger", ["a", f"b{n}"], [f"y{n}"]) for n in names]
    weights = [numpy_helper.from_array(matrix, f"b{n}") for matrix, n in zip(matrices, names, strict=True)]
    graph = helper.make_graph(nodes, "products", [a], ys, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    ask_for_exact_products(options)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def self_test() -> str:
    """What this processor's 8-bit matrix product gets wrong on extreme and random bytes; nothing, as a rule."""
    random = np.random.default_rng(1)
    for ends in (True, False):
        a = random.choice([0, 255], (40, 300)) if ends else random.integers(0, 256, (40, 300))
        b = random.choice([-128, 127], (300, 24)) if ends else random.integers(-128, 128, (300, 24))
        found = _products([b.astype(np.int8)]).run(None, {"a": a.astype(np.uint8)})[0]
        if not np.array_equal(found, a @ b):
            return "the 8-bit matrix product"
    tensors = {n: Tensor(n, s, INT16, 1.0) for n, s in (("x", (50,)), ("y", (9,)))}
    arrays = {"w": random.integers(-(2**15), 2**15 - 128, (50, 9)), "b": random.integers(-(2**30), 2**30, 9)}
    x = random.integers(-(2**15), 2**15, (8, 50))
    for shift in (10, 20):
        stage = Requantize(Rescale((1,), (shift,), "floor"), INT16, 0, -(2**15), 2**15 - 1, "wrap")
        step = p.Linear("probe", ("x",), "y", "w", "b", stage)
        program = Program("probe", ("x",), ("y",), tensors, (step,), arrays, 48, "wrap")
        if not np.array_equal(prepare(program, step)([x.astype(np.int16)]), reference.run(program, {"x": x})["y"]):
            return "sums modulo 2**32"
    return ""
