"""Bringing the images of a batch together and taking them apart again, without a copy where it can be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import Any

import numpy as np

from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer, HostBuffer

Inputs = Sequence[Buffer]


@dataclass(frozen=True, slots=True)
class Slice:
    """One image of a batch: a view, which keeps the whole batch in memory."""

    spec: TensorSpec
    whole: Buffer
    index: int

    @property
    def on_host(self) -> bool:
        return getattr(self.whole, "on_host", False)

    def to_host(self) -> np.ndarray[Any, Any]:
        return self.whole.to_host()[self.index : self.index + 1]


def gather(items: Sequence[Inputs], size: int) -> tuple[Inputs, int]:
    """The inputs of a batch, and the bytes that were copied to make them.

    Args:
        items: the inputs of each image, each with 1 as its batch dimension.
        size: of the batch; where it is more than there are images, the last is repeated.
    """
    if size == 1:
        return items[0], 0
    gathered: list[Buffer] = []
    copied = 0
    for column in zip(*items, strict=True):
        whole = _whole(column, size)
        if whole is None:
            arrays = [buffer.to_host() for buffer in column]
            arrays += [arrays[-1]] * (size - len(arrays))
            array = np.concatenate(arrays)
            copied += array.nbytes
            whole = HostBuffer(_resized(column[0].spec, size), array)
        gathered.append(whole)
    return gathered, copied


def split(outputs: tuple[Buffer, ...], count: int, size: int) -> list[tuple[Buffer, ...]]:
    """The outputs of each of the first ``count`` images of a batch of ``size``; views."""
    if size == 1:
        return [outputs]
    specs = [_resized(buffer.spec, 1) for buffer in outputs]
    return [tuple(Slice(s, b, i) for s, b in zip(specs, outputs, strict=True)) for i in range(count)]


def is_finite(buffer: Buffer) -> bool:
    """Whether a tensor in host memory has neither NaN nor infinity; others are taken to have none."""
    if buffer.spec.dtype not in ("float32", *_INFINITY) or not getattr(buffer, "on_host", False):
        return True
    array = buffer.to_host()
    if buffer.spec.dtype == "float32":
        # Two passes, but neither an array of answers nor an error state, which behind a large call cost more.
        values = array.reshape(-1)
        return bool(np.maximum.reduce(values, initial=0.0) < inf and np.minimum.reduce(values, initial=0.0) > -inf)
    # As whole numbers, halves are in the order of their size: NaN and infinity are the largest of either sign.
    words, infinity = np.ascontiguousarray(array).view(np.int16), _INFINITY[buffer.spec.dtype]
    return bool(words.max(initial=0) < infinity and words.view(np.uint16).max(initial=0) < infinity + 0x8000)


_INFINITY = {"bfloat16": 0x7F80, "float16": 0x7C00}
"""Its bits."""


def _whole(column: Sequence[Buffer], size: int) -> Buffer | None:
    """The batch that these are the images of, all and in order."""
    first = column[0]
    if not isinstance(first, Slice) or len(column) != size or first.whole.spec.shape[0] != size:
        return None
    together = all(isinstance(b, Slice) and b.whole is first.whole and b.index == i for i, b in enumerate(column))
    return first.whole if together else None


@lru_cache(maxsize=1024)
def _resized(spec: TensorSpec, size: int) -> TensorSpec:
    return replace(spec, shape=(size, *spec.shape[1:]))
