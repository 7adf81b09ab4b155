"""What a tensor of the Q/DQ graph stands for while it is lowered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from stagekit_fixedpoint.arithmetic import Ints, Requantize
from stagekit_fixedpoint.program import Array, Step, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

Reals = npt.NDArray[np.float64]


class Refused(Exception):  # caught by the driver, which turns it into an Unsupported
    """A node cannot be computed on the device; the message says why.

    Args:
        node: the node at fault, where it is not the one that is being lowered.
    """

    def __init__(self, why: str, node: str = "") -> None:
        super().__init__(why)
        self.node = node


@dataclass(frozen=True, slots=True)
class Stored:
    """Integers in the device's memory, standing for real numbers.

    Args:
        joined: the graph has joined the batch with the rows, (batch, rows, columns) to (batch * rows, columns), as
            exporters do around Gemm; the tensor keeps its own shape, and only products over columns may read it.
    """

    tensor: Tensor
    joined: bool = False


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant; weights that went through QuantizeLinear know their integers.

    Args:
        real: the values, float64 (or int64 for shapes).
        stored: the integers, less their zero point; None for constants that were not quantised.
        scale: one, or one for each index along ``axis``.
    """

    real: np.ndarray[Any, Any]
    stored: Ints | None = None
    scale: Reals | None = None
    axis: int = 0


@dataclass(frozen=True, eq=False)
class Pending:
    """A result that exists only in the accumulator; the QuantizeLinear behind it says how it is stored.

    Args:
        finish: makes the step, given the output's name, how to requantise and the integer bias.
        unit: the real number that 1 in the accumulator stands for; one, or one for each channel.
        axis: of the channels, counting the batch.
        bias: what is still to be added, in real numbers; None where the step cannot add one.
        low, high: a folded clamp in real numbers.
        part: the accumulator of the channels from one index to another, where a Split may cut it before it is stored.
        limits: an upper limit for each channel, for which steps of their own follow; None without.
        multiplier: whether this operation may use one where a shift is not enough.
        joined: as in :class:`Stored`.
    """

    name: str
    shape: tuple[int, ...]
    finish: Callable[[str, Requantize, Ints], Step]
    unit: Reals
    axis: int = -1
    bias: Reals | None = None
    low: float = -inf
    high: float = inf
    multiplier: bool = False
    joined: bool = False
    limits: Reals | None = None
    part: Callable[[Pending, int, int], Pending] | None = None


@dataclass(frozen=True, eq=False)
class Joined:
    """A concatenation whose parts are converted to the format of the QuantizeLinear behind it."""

    name: str
    parts: tuple[Tensor, ...]
    shape: tuple[int, ...]
    axis: int


@dataclass(frozen=True, eq=False)
class Tabulated:
    """An elementwise expression of one stored tensor, evaluated for each value that the tensor can have.

    Args:
        levels: (rows, 2**bits) real numbers in float64; one row, or one for each index along ``axis``.
        factor: where the expression is ``factor * x`` alone, that factor: no table is needed then.
    """

    source: Tensor
    levels: Reals
    axis: int = 1
    factor: float | None = None

    @classmethod
    def of(cls, tensor: Tensor) -> Tabulated:
        """The tensor's own real values."""
        codes = np.arange(tensor.format.lowest, tensor.format.highest + 1, dtype=np.float64)
        return cls(tensor, (codes - tensor.zero_point)[None] * tensor.scale, factor=1.0)


@dataclass(frozen=True, eq=False)
class Hosted:
    """A result of float nodes on the host, which the QuantizeLinear behind them brings back to the device.

    Args:
        nodes: in order, by the names of their outputs; the last one's is the result.
        sources: the stored tensors that they read, by the names they read them under; likewise ``constants``.
        shape: of the result, without the batch.
    """

    nodes: Mapping[str, ir.Node]
    sources: Mapping[str, Tensor]
    constants: Mapping[str, Array]
    shape: tuple[int, ...]


Value = Stored | Constant | Pending | Joined | Tabulated | Hosted
