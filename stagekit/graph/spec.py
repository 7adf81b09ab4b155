"""What is known about a tensor without its contents: name, element type, shape, axes and quantisation."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import ml_dtypes
import numpy as np

from stagekit.errors import UsageError

Dim = int | str

BATCH: Final = "batch"
"""The name of the one symbolic dimension that a stage graph keeps."""

BLOCKED: Final = "NCHWc"
"""The order of axes of a map stored in groups of channels, each group channels last; see :meth:`TensorSpec.blocked`."""

DTYPES: Final[dict[str, np.dtype[Any]]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "uint8": np.dtype(np.uint8),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}
"""Element types a boundary can have, by the name that manifests and profiles use."""


@dataclass(frozen=True, slots=True)
class Quantization:
    """``real = scale * (stored - zero_point)``; one value, or one for each index along ``axis``."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"scale": list(self.scale), "zero_point": list(self.zero_point), "axis": self.axis}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Quantization:
        return cls(tuple(data["scale"]), tuple(data["zero_point"]), data.get("axis"))


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor's form.

    Args:
        name: the tensor's name in the graph it belongs to.
        dtype: a key of :data:`DTYPES`.
        shape: the dimensions *as stored*, in the order that ``layout`` names; a string is symbolic.
        layout: one letter an axis, e.g. ``NCHW``, ``NHWC``, ``NTC`` (batch, tokens, channels); empty where
            the axes have no names.
        quantization: how stored integers stand for real numbers, or ``None``.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    layout: str = ""
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"unknown element type {self.dtype!r}; known: {', '.join(DTYPES)}", where=self.name)
        if any(isinstance(d, int) and d < 0 for d in self.shape):
            raise UsageError(f"a dimension of {self.shape} is negative", where=self.name)
        if self.layout and (len(self.layout) != len(self.shape) or len(set(self.layout)) != len(self.layout)):
            raise UsageError(f"layout {self.layout!r} does not name the axes of {self.shape}", where=self.name)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        return DTYPES[self.dtype]

    def bind(self, **dims: int) -> TensorSpec:
        """The spec with symbolic dimensions replaced by the given sizes, e.g. ``spec.bind(batch=4)``."""
        return replace(self, shape=tuple(dims.get(d, d) if isinstance(d, str) else d for d in self.shape))

    def concrete(self) -> tuple[int, ...]:
        """The shape, all of whose dimensions must be known.

        Raises:
            UsageError: a dimension is symbolic.
        """
        if any(isinstance(d, str) for d in self.shape):
            raise UsageError(f"the shape {self.shape} still has symbolic dimensions", where=self.name)
        return tuple(int(d) for d in self.shape)

    def nbytes(self) -> int:
        """Bytes of a dense tensor of this spec; all dimensions must be known."""
        return int(np.prod(self.concrete(), dtype=np.int64)) * self.numpy_dtype.itemsize

    def renamed(self, name: str) -> TensorSpec:
        return replace(self, name=name)

    def transposed(self, layout: str) -> TensorSpec:
        """The same tensor stored with its axes in another order.

        Raises:
            UsageError: ``layout`` is not a reordering of this spec's own.
        """
        if sorted(layout) != sorted(self.layout):
            raise UsageError(f"layout {layout!r} is not a reordering of {self.layout!r}", where=self.name)
        return replace(self, layout=layout, shape=tuple(self.shape[self.layout.index(axis)] for axis in layout))

    def blocked(self, size: int) -> TensorSpec:
        """The same map in groups of ``size`` channels: (batch, groups, height, width, size), the last group filled up.

        Raises:
            UsageError: it is no map with its channels first, or their number is not known.
        """
        if self.layout != "NCHW" or isinstance(self.shape[1], str):
            raise UsageError(f"expected a map (NCHW) of known channels, got {self}", where=self.name)
        batch, channels, height, width = self.shape
        return replace(self, layout=BLOCKED, shape=(batch, -(-int(channels) // size), height, width, size))

    def in_form(self, form: TensorSpec) -> TensorSpec:
        """The same tensor stored as another one is: its element type, its order of axes, its groups of channels.

        Raises:
            UsageError: it has other axes.
        """
        stored = self
        if form.layout == BLOCKED and self.layout != BLOCKED:
            stored = self.blocked(int(form.shape[-1]))
        elif form.layout and self.layout and form.layout != self.layout:
            stored = self.transposed(form.layout)
        return replace(stored, dtype=form.dtype)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; :meth:`from_dict` is its inverse."""
        data: dict[str, Any] = {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}
        if self.layout:
            data["layout"] = self.layout
        if self.quantization:
            data["quantization"] = self.quantization.to_dict()
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TensorSpec:
        quantization = data.get("quantization")
        return cls(
            data["name"],
            data["dtype"],
            tuple(data["shape"]),
            data.get("layout", ""),
            Quantization.from_dict(quantization) if quantization else None,
        )

    def __str__(self) -> str:
        dims = " x ".join(str(d) for d in self.shape)
        return f"{self.name}: {self.dtype} [{dims}]" + (f" {self.layout}" if self.layout else "")
