"""Memory that OpenVINO reads and writes in place.

An infer request writes every call's outputs to the same tensor. So each call is given output memory of its
own, from a pool that takes a block back once nobody refers to it; new blocks each time would cost a page
fault every 4 KB.
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stagekit.graph.spec import TensorSpec

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

SPARE_BLOCKS = 4
"""Free blocks kept for each size; what is beyond them is given back."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class Output:
    """A block of the pool as OpenVINO and as the caller see it."""

    spec: TensorSpec
    tensor: Any
    array: np.ndarray[Any, Any]


class OutputPool:
    """Blocks by size; a block returns when the last array over it is gone."""

    def __init__(self) -> None:
        self._spare: dict[int, deque[Bytes]] = defaultdict(lambda: deque(maxlen=SPARE_BLOCKS))

    def take(self, spec: TensorSpec, shape: tuple[int, ...]) -> Output:
        """Memory for one output; ``array`` is read-only and holds the block."""
        spec = replace(spec, shape=shape)
        spare = self._spare[spec.nbytes()]
        try:
            block = spare.pop()
        except IndexError:
            block = _aligned(spec.nbytes())
        lease = _View(block, writable=False)
        weakref.finalize(lease, spare.append, block).atexit = False
        array = np.asarray(lease).view(spec.numpy_dtype).reshape(shape)
        return Output(spec, shared_tensor(block.view(spec.numpy_dtype).reshape(shape), spec.dtype), array)


def shared_tensor(array: np.ndarray[Any, Any], dtype: str) -> Any:
    """An ``ov.Tensor`` over a dense array's memory; the caller keeps the array alive while it is in use.

    OpenVINO refuses read-only arrays although it only reads an input, hence the writable view; and numpy has
    no bfloat16 of its own, hence the 16-bit integers.
    """
    from openvino import Shape, Tensor, Type

    stored = array.view(np.uint16) if dtype == "bfloat16" else array
    if not stored.flags.writeable:
        flat = np.asarray(_View(stored.reshape(-1).view(np.uint8), writable=True))
        stored = flat.view(stored.dtype).reshape(array.shape)
    if dtype == "bfloat16":
        return Tensor(stored, Shape(list(array.shape)), Type.bf16)
    return Tensor(stored, shared_memory=True)


class _View:
    """An array's bytes under numpy's array interface: an array made from it holds it as its ``base``."""

    def __init__(self, array: Bytes, writable: bool) -> None:
        self._array = array
        self.__array_interface__ = {
            "data": (array.ctypes.data, not writable),
            "shape": array.shape,
            "typestr": "|u1",
            "version": 3,
        }


def _aligned(nbytes: int) -> Bytes:
    block = np.empty(nbytes + ALIGNMENT, np.uint8)
    offset = -block.ctypes.data % ALIGNMENT
    return block[offset : offset + nbytes]
