"""Number formats: what an integer can hold and how a range of real numbers is laid on it.

``real = scale * (stored - zero_point)``, as ONNX's QuantizeLinear has it (round half to even, then clamp).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2
from typing import Any, Literal

import numpy as np

from stagekit.errors import UsageError
from stagekit.graph.spec import DTYPES, Quantization

Array = np.ndarray[Any, Any]
Grid = Literal["float", "power_of_two"]

SMALLEST_SCALE = 2.0**-100
"""A range of zero width still needs a scale that float32 can divide by."""


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """An integer type and how it is used.

    Args:
        dtype: ``int8``, ``uint8``, ``int16`` or ``int32``.
        symmetric: zero point 0 and, for signed types, as many levels below zero as above.
        grid: which scales are allowed.
        bits: that are used, where they are fewer than the type has.
    """

    dtype: str
    symmetric: bool
    grid: Grid = "float"
    bits: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in ("int8", "uint8", "int16", "int32"):
            raise UsageError(f"no number format is called {self.dtype!r}; known: int8, uint8, int16, int32")

    @property
    def low(self) -> int:
        """The smallest stored value that is used."""
        info = np.iinfo(DTYPES[self.dtype])
        if info.min == 0:
            return 0
        return -self.high - (0 if self.symmetric else 1)

    @property
    def high(self) -> int:
        info = np.iinfo(DTYPES[self.dtype])
        return int(info.max) >> (info.bits - (self.bits or info.bits))

    def fit(self, minimum: float, maximum: float) -> Quantization:
        """The scale and zero point that hold [minimum, maximum] and zero, exactly.

        A format that is symmetric and unsigned holds [0, maximum]: what lies below zero is cut.
        """
        minimum, maximum = min(minimum, 0.0), max(maximum, 0.0)
        if self.symmetric:
            reach = max(maximum, -minimum if self.low < 0 else 0.0)
            return Quantization((self._on_grid(reach / self.high),), (0,))
        scale = self._on_grid((maximum - minimum) / (self.high - self.low))
        zero = int(np.clip(np.rint(self.low - minimum / scale), self.low, self.high))
        return Quantization((scale,), (zero,))

    def fit_channels(self, weight: Array, axis: int, finest: Array | float = 0.0) -> Quantization:
        """Symmetric scales for each index along an axis, from the largest magnitude there.

        Args:
            finest: the smallest scale that each may have.
        """
        others = tuple(a for a in range(weight.ndim) if a != axis)
        reach = np.abs(weight).max(axis=others) if weight.size else np.zeros(weight.shape[axis])
        scales = tuple(self._on_grid(float(s)) for s in np.maximum(reach.astype(np.float64) / self.high, finest))
        return Quantization(scales, (0,) * len(scales), axis)

    def _on_grid(self, scale: float) -> float:
        if scale <= SMALLEST_SCALE:
            return 1.0  # nothing but zeros: any scale holds them
        if self.grid == "power_of_two":
            return float(2.0 ** ceil(log2(scale) - 1e-9))
        return float(np.float32(scale))


def limits(form: NumberFormat, quantization: Quantization) -> tuple[float, float]:
    """The smallest and the largest real number that a per-tensor quantisation can hold."""
    (scale,), (zero,) = quantization.scale, quantization.zero_point
    return scale * (form.low - zero), scale * (form.high - zero)


def quantise(values: Array, quantization: Quantization, form: NumberFormat) -> Array:
    """Stored integers of real values: divide, round half to even, shift, clamp."""
    _, zero = _broadcast(quantization, values.ndim)
    stored = np.rint(steps(values, quantization)) + zero
    integers: Array = np.clip(stored, form.low, form.high).astype(DTYPES[form.dtype])
    return integers


def steps(values: Array, quantization: Quantization) -> Array:
    """Real values in units of their scale, float64: what rounding starts from."""
    scale, _ = _broadcast(quantization, values.ndim)
    return np.asarray(values.astype(np.float64) / scale)


def dequantise(stored: Array, quantization: Quantization) -> Array:
    """Real values of stored integers, float32."""
    scale, zero = _broadcast(quantization, stored.ndim)
    return ((stored.astype(np.float64) - zero) * scale).astype(np.float32)


def _broadcast(quantization: Quantization, ndim: int) -> tuple[Array, Array]:
    shape = [1] * ndim
    if quantization.axis is not None:
        shape[quantization.axis] = len(quantization.scale)
    scale, zero = np.asarray(quantization.scale), np.asarray(quantization.zero_point, np.float64)
    return (scale.reshape(shape), zero.reshape(shape)) if ndim else (scale[0], zero[0])
