"""Batches out of images and images out of batches."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.graph.spec import TensorSpec
from stagekit.runtime.buffers import gather, is_finite, split
from stagekit.target import HostBuffer


def buffer(values: Any, dtype: Any = np.float32) -> HostBuffer:
    array = np.asarray(values, dtype)
    return HostBuffer(TensorSpec("x", array.dtype.name, array.shape), array)


@given(st.integers(1, 5), st.integers(0, 3))
def test_what_is_gathered_and_split_comes_back(count: int, spare: int) -> None:
    images = [[buffer([[i, i + 0.5]])] for i in range(count)]
    whole, copied = gather(images, count + spare)
    assert whole[0].to_host().shape == (count + spare, 2)
    assert copied == (0 if count + spare == 1 else (count + spare) * 8)
    back = split((whole[0],), count, count + spare)
    assert [b[0].to_host().tolist() for b in back] == [i[0].to_host().tolist() for i in images]
    assert all(b[0].spec.shape == (1, 2) for b in back)


def test_the_images_of_one_batch_in_their_order_are_that_batch() -> None:
    whole = buffer(np.arange(6).reshape(3, 2))
    images = split((whole,), 3, 3)
    again, copied = gather(images, 3)
    assert again[0] is whole and copied == 0
    _, copied = gather(images[::-1], 3)
    assert copied == whole.array.nbytes
    _, copied = gather(images[:2], 2)
    assert copied == 16


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_no_number_is_found(dtype: Any, bad: float) -> None:
    values = np.linspace(-100, 100, 1000)
    assert is_finite(buffer(values[None], dtype))
    values[700] = bad
    assert not is_finite(buffer(values[None], dtype))


def test_large_numbers_are_numbers() -> None:
    assert is_finite(buffer(np.full((1, 100), 3e38)))
    assert is_finite(buffer([[255]], np.uint8))
