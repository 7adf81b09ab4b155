"""Blocks for outputs: given out again when nobody looks at them any more, and never before."""

import numpy as np
import pytest

from stagekit.graph.spec import TensorSpec

pytest.importorskip("openvino")

from stagekit_openvino.memory import KEPT_BLOCKS, OutputBlocks


def blocks(dtype: str = "float32") -> OutputBlocks:
    return OutputBlocks(TensorSpec("x", dtype, (1, 3, 4, 4), "NCHW"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_block_comes_back_when_it_is_let_go(dtype: str) -> None:
    pool = blocks(dtype)
    first = pool.take()
    address = first.array.ctypes.data
    del first
    assert pool.take().array.ctypes.data == address


@pytest.mark.parametrize(
    "held",
    [
        lambda buffer: buffer,
        lambda buffer: buffer.array,
        lambda buffer: buffer.array[0].reshape(-1)[2:],
        lambda buffer: memoryview(buffer.array),
        lambda buffer: buffer.array.view(np.uint8).T,
        lambda buffer: lambda: buffer.to_host(),
    ],
    ids=["buffer", "array", "view", "memoryview", "retyped", "closure"],
)
def test_block_stays_while_anything_looks_at_it(held: object) -> None:
    pool = blocks()
    keeper = held(pool.take())  # type: ignore[operator]  # a lambda, which has no type of its own
    taken = [pool.take() for _ in range(3)]
    addresses = {buffer.array.ctypes.data for buffer in taken}
    assert len(addresses) == 3
    del keeper
    assert pool.take().array.ctypes.data not in addresses


def test_more_than_the_kept_ones_are_still_apart() -> None:
    pool = blocks()
    taken = [pool.take() for _ in range(KEPT_BLOCKS + 3)]
    for number, buffer in enumerate(taken):
        buffer.tensor.data[:] = number
    assert [int(buffer.array[0, 0, 0, 0]) for buffer in taken] == list(range(len(taken)))


def test_readers_cannot_write() -> None:
    with pytest.raises(ValueError, match="read-only"):
        blocks().take().array[:] = 0
