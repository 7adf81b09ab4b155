"""The integer-only program that a graph is lowered to: tensors, steps and constant arrays, as data.

Every tensor has the batch as its first axis, which shapes leave out, and images are batch, channels, height,
width. A step names its inputs, its output and the arrays it reads; what it computes is written, once and in
plain numpy, in :mod:`stagekit_fixedpoint.reference`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar

import numpy as np

from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A stored tensor; ``real = scale * (stored - zero_point)``, and ``shape`` is without the batch."""

    name: str
    shape: tuple[int, ...]
    format: Format
    scale: float
    zero_point: int = 0

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Step:
    """One operation; ``name`` is the node of the source graph it comes from."""

    operator: ClassVar[str] = ""
    name: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True, slots=True)
class Convolution(Step):
    """``requantize(accumulate(sum w (x - zx)) + bias)``; ``weight`` is (out, in / groups, kh, kw)."""

    operator: ClassVar[str] = "conv"
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

    operator: ClassVar[str] = "matmul"
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

    operator: ClassVar[str] = "attention"


@dataclass(frozen=True, slots=True)
class Add(Step):
    """``requantize(sum of rescale_i((x_i - z_i) << left))``; ``constant`` names an array that is the second term."""

    operator: ClassVar[str] = "add"
    rescales: tuple[Rescale, ...]
    left: int
    constant: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Multiply(Step):
    """``requantize((x - zx) (y - zy))``; ``constant`` names an array (zero point 0) in place of the second input."""

    operator: ClassVar[str] = "mul"
    constant: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Convert(Requantized):
    """``requantize(x - zx)``: another scale or format, or a ReLU or Clip on its own."""

    operator: ClassVar[str] = "layout"


@dataclass(frozen=True, slots=True)
class Concatenate(Step):
    operator: ClassVar[str] = "concat"
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

    operator: ClassVar[str] = "max_pool"


@dataclass(frozen=True, slots=True)
class SumPool(Windowed):
    """``requantize(sum of (x - zx))``; the mean's division is in the rescale, padding counts as zero."""

    operator: ClassVar[str] = "average_pool"
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class ResizeNearest(Step):
    """Rows and columns picked by index."""

    operator: ClassVar[str] = "resize_nearest"
    rows: tuple[int, ...]
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ResizeBilinear(Step):
    """``requantize(R (x - zx) C)`` with integer interpolation matrices (out rows, rows) and (out columns, columns)."""

    operator: ClassVar[str] = "resize_bilinear"
    rows: str
    columns: str
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Lookup(Step):
    """``table[c, x - lowest]``: one table, or one for each channel along ``axis`` (of the whole tensor)."""

    operator: ClassVar[str] = "table"
    table: str
    axis: int


@dataclass(frozen=True, slots=True)
class Softmax(Step):
    """Softmax over ``axis``; see :func:`stagekit_fixedpoint.transformer.softmax`."""

    operator: ClassVar[str] = "softmax"
    axis: int
    left: int
    unit: int
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class LayerNorm(Step):
    """Integer LayerNorm over the last axis; see :func:`stagekit_fixedpoint.transformer.layer_norm`."""

    operator: ClassVar[str] = "layer_norm"
    gain: str
    offset: str
    epsilon: int
    requantize: Requantize


@dataclass(frozen=True, slots=True)
class Reshape(Step):
    operator: ClassVar[str] = "layout"
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose(Step):
    """``order`` counts the batch as axis 0, which stays first."""

    operator: ClassVar[str] = "layout"
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Slice(Step):
    """Part of one axis (counting the batch as axis 0); ``stop`` is exclusive."""

    operator: ClassVar[str] = "layout"
    axis: int
    start: int
    stop: int
    stride: int


@dataclass(frozen=True, slots=True)
class Pad(Step):
    """Zeros (that is, zero points) before and after one axis (counting the batch as axis 0)."""

    operator: ClassVar[str] = "layout"
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

    operator: ClassVar[str] = "host"
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

    def to_json(self) -> str:
        """All but the arrays."""
        data = {
            "device": self.device,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "accumulator_bits": self.accumulator_bits,
            "accumulator_overflow": self.accumulator_overflow,
            "tensors": [asdict(t) for t in self.tensors.values()],
            "steps": [{"kind": type(s).__name__, **asdict(s)} for s in self.steps],
        }
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str, arrays: Mapping[str, Array]) -> Program:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError, KeyError, TypeError: the text is not a program.
        """
        data = json.loads(text)
        tensors = [
            Tensor(t["name"], tuple(t["shape"]), Format(**t["format"]), t["scale"], t["zero_point"])
            for t in data["tensors"]
        ]
        return cls(
            data["device"],
            tuple(data["inputs"]),
            tuple(data["outputs"]),
            {t.name: t for t in tensors},
            tuple(_step(s) for s in data["steps"]),
            {name: array.astype(np.int64) for name, array in arrays.items()},
            data["accumulator_bits"],
            data["accumulator_overflow"],
        )


def pack_arrays(arrays: Mapping[str, Array]) -> bytes:
    """An ``.npz`` of the arrays, each in the smallest type that holds it; the same arrays give the same bytes."""
    stream = io.BytesIO()
    np.savez(stream, **{name: _narrow(array) for name, array in sorted(arrays.items())})  # type: ignore[arg-type]
    return stream.getvalue()


def _narrow(array: Array) -> Array:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    kind = next(
        k for k in (np.int8, np.int16, np.int32, np.int64) if np.iinfo(k).min <= low and high <= np.iinfo(k).max
    )
    return array.astype(kind)


def _step(data: dict[str, Any]) -> Step:
    kind = STEPS[data.pop("kind")]
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = data[field.name]
        if field.name == "requantize":
            value = Requantize(**{**value, "rescale": _rescale(value["rescale"]), "format": Format(**value["format"])})
        elif field.name == "rescales":
            value = tuple(_rescale(v) for v in value)
        elif isinstance(value, list):
            value = tuple(value)
        values[field.name] = value
    return kind(**values)


def _rescale(data: dict[str, Any]) -> Rescale:
    return Rescale(tuple(data["multiplier"]), tuple(data["shift"]), data["rounding"], data["style"])
