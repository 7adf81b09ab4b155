"""Memory that OpenVINO reads and writes in place.

An infer request writes every call's outputs to the same tensor. So each call is given output memory of its
own: a block that nobody looks at any more, or a new one. A block keeps its OpenVINO tensor and its buffer, since
between two calls of a chain every object made anew shows in the latency: the caches are full of weights then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from sys import getrefcount
from types import ModuleType
from typing import Any

import numpy as np

from stagekit.graph.spec import TensorSpec
from stagekit.target import HostBuffer

ALIGNMENT = 64
"""Bytes: a cache line, and the widest vector register."""

KEPT_BLOCKS = 5
"""Blocks kept for an output of a lane; those beyond them go with their last reader."""

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True, slots=True)
class OvBuffer(HostBuffer):
    """An output in ordinary memory, with OpenVINO's tensor over it for whichever engine reads it next."""

    tensor: Any


class Block:
    """Memory for one output: written by OpenVINO, read-only for those who get it."""

    __slots__ = ("_idle", "_root", "buffer")

    def __init__(self, spec: TensorSpec) -> None:
        block = _aligned(spec.nbytes())
        shape = spec.concrete()
        # Whatever views a reader takes, numpy makes this array their base.
        self._root = np.asarray(_View(block, writable=False))
        tensor = shared_tensor(block.view(spec.numpy_dtype).reshape(shape), spec.dtype)
        self.buffer = OvBuffer(spec, self._root.view(spec.numpy_dtype).reshape(shape), tensor)
        self._idle = self._references()

    @property
    def is_free(self) -> bool:
        """Nobody else holds the buffer, its array or a view of it."""
        return self._references() == self._idle

    def _references(self) -> tuple[int, int, int]:
        """Counted here each time: how many are Python's own differs from version to version."""
        return getrefcount(self.buffer), getrefcount(self.buffer.array), getrefcount(self._root)


class OutputBlocks:
    """Blocks for one output of one lane, whose calls come one after the other."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._blocks: list[Block] = []

    def take(self) -> OvBuffer:
        """A block that nobody looks at."""
        for block in self._blocks:
            if block.is_free:
                return block.buffer
        block = Block(self._spec)
        if len(self._blocks) < KEPT_BLOCKS:
            self._blocks.append(block)
        return block.buffer


def shared_tensor(array: np.ndarray[Any, Any], dtype: str) -> Any:
    """An ``ov.Tensor`` over a dense array's memory, which it keeps alive.

    OpenVINO refuses read-only arrays although it only reads an input, hence the writable view; and numpy has
    no bfloat16 of its own, hence the 16-bit integers.
    """
    vendor = _vendor()
    stored = array.view(np.uint16) if dtype == "bfloat16" else array
    if not stored.flags.writeable:
        flat = np.asarray(_View(stored.reshape(-1).view(np.uint8), writable=True))
        stored = flat.view(stored.dtype).reshape(array.shape)
    if dtype == "bfloat16":
        return vendor.Tensor(stored, vendor.Shape(list(array.shape)), vendor.Type.bf16)
    return vendor.Tensor(stored, shared_memory=True)


@cache
def _vendor() -> ModuleType:
    import openvino

    module: ModuleType = openvino
    return module


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
