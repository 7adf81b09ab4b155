"""The integer-only program that a graph is lowered to: tensors, steps and constant arrays, as data.

Every tensor has the batch as its first axis, which shapes leave out, and images are batch, channels, height,
width. A step names its inputs, its output and the arrays it reads; what it computes is written, once and in
plain numpy, in :mod:`stagekit_fixedpoint.reference`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored tensor; ``real = scale * (stored - zero_point)``, and ``shape`` is without the batch.

    Args:
        exponents: of a power of two by which each index along ``axis`` (counting the batch) counts for more.
    """

    name: str
    shape: tuple[int, ...]
    format: Format
    scale: float
    zero_point: int = 0
    exponents: tuple[int, ...] = ()
    axis: int = -1

    @property
    def form(self) -> tuple[Format, float, int, tuple[int, ...]]:
        """What its integers stand for; tensors of one form need no conversion."""
        return self.format, self.scale, self.zero_point, self.exponents

    @property
    def scales(self) -> npt.NDArray[np.float64]:
        """One, or one for each index along ``axis``."""
        return self.scale * 2.0 ** np.array(self.exponents or (0,))

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Step:
    """One operation; ``name`` is the node of the source graph it comes from."""

    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class Convolution(Step):
    """``requantize(accumulate(sum w (x - zx)) + bias)``; ``weight`` is (out, in / groups, kh, kw)."""

    weight: str
    bias: str
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]
    dilations: tuple[int, int]
    groups: int
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Linear(Step):
    """The same over the last axis: ``weight`` is (in, out)."""

    weight: str
    bias: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Requantized(Step):
    """A step with no parameters but how its result is stored."""

    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Product(Requantized):
    """Matrix product of two stored tensors over their last two axes, as in attention."""


@dataclass(frozen=True, slots=True)
class Add(Step):
    """``requantize(sum of rescale_i((x_i - z_i) << left))``; ``constant`` names an array that is the second term."""

    rescales: tuple[Rescale, ...]
    left: int
    constant: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Multiply(Step):
    """``requantize((x - zx) (y - zy))``; ``constant`` names an array (zero point 0) in place of the second input."""

    constant: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Convert(Requantized):
    """``requantize(x - zx)``: another scale or format, or a ReLU or Clip on its own."""


@dataclass(frozen=True, slots=True)
class Concatenate(Step):
    axis: int


@dataclass(frozen=True, slots=True)
class Windowed(Step):
    """A step on windows of an image; ``pads`` are top, left, bottom, right."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    pads: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class MaxPool(Windowed):
    """The largest stored value; places outside the image never win."""


@dataclass(frozen=True, slots=True)
class SumPool(Windowed):
    """``requantize(sum of (x - zx))``; the mean's division is in the rescale, padding counts as zero."""

    requantize: Requantize


@dataclass(frozen=True, slots=True)
class ResizeNearest(Step):
    """Rows and columns picked by index."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResizeBilinear(Step):
    """``requantize(R (x - zx) C)`` with integer interpolation matrices (out rows, rows) and (out columns, columns)."""

    rows: str
    columns: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Lookup(Step):
    """``table[c, x - lowest]``: one table, or one for each channel along ``axis`` (of the whole tensor)."""

    table: str
    axis: int


@dataclass(frozen=True, slots=True)
class Softmax(Step):
    """Softmax over ``axis``; ``left`` is one for all, or one for each index along the input's own axis of exponents.

    See :func:`stagekit_fixedpoint.transformer.softmax`.
    """

    axis: int
    left: tuple[int, ...]
    unit: int
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class LayerNorm(Step):
    """Integer LayerNorm over the last axis, of ``x << left`` where channels have exponents.

    See :func:`stagekit_fixedpoint.transformer.layer_norm`.
    """

    left: tuple[int, ...]
    gain: str
    offset: str
    epsilon: int
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Reshape(Step):
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose(Step):
    """``order`` counts the batch as axis 0, which stays first."""

    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice(Step):
    """Part of one axis (counting the batch as axis 0); ``stop`` is exclusive."""

    axis: int
    start: int
    stop: int
    stride: int


@dataclass(frozen=True, slots=True)
class Pad(Step):
    """Zeros (that is, zero points) before and after one axis (counting the batch as axis 0)."""

    axis: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Host(Step):
    """Floats on the host beside the device; see :mod:`stagekit_fixedpoint.host`.

    Args:
        model: name of the array with the bytes of its ONNX graph.
        names: of the graph's inputs, in the order of ``inputs``.
    """

    model: str
    names: tuple[str, ...]


STEPS: dict[str, type[Step]] = {
    kind.__name__: kind
    for kind in (
        *(Convolution, Linear, Product, Add, Multiply, Convert, Concatenate, MaxPool, SumPool, ResizeNearest),
        *(ResizeBilinear, Lookup, Softmax, LayerNorm, Reshape, Transpose, Slice, Pad, Host),
    )
}


@dataclass(frozen=True, eq=False)
class Program:
    """Steps in order over named tensors.

    Args:
        device: name of the description it was lowered for.
        tensors: every stored tensor by name.
        arrays: weights, biases and tables by name, int64.
    """

    device: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    tensors: Mapping[str, Tensor]
    steps: tuple[Step, ...]
    arrays: Mapping[str, Array]
    accumulator_bits: int = 32
    accumulator_overflow: str = "forbid"
