"""Resampling against torch's own operators and a definition in plain Python."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from stagekit.models.pooling import adaptive_average_pool, averaging_rows, resize


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 2, 3, 5, 6, 8]), st.integers(0, 2**31))
def test_two_matmuls_are_adaptive_average_pooling(height: int, width: int, bins: int, seed: int) -> None:
    x = torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(adaptive_average_pool(x, bins), F.adaptive_avg_pool2d(x, bins), atol=1e-5, rtol=1e-5)


@given(st.integers(1, 200), st.integers(1, 12))
def test_every_bin_is_a_mean_and_no_cell_is_left_out(size: int, bins: int) -> None:
    rows = averaging_rows(size, bins, torch.zeros((), dtype=torch.float64)).tolist()
    assert all(abs(sum(row) - 1) < 1e-9 for row in rows)
    assert all(any(row[cell] > 0 for row in rows) for cell in range(size))


def test_bins_that_do_not_divide_the_map_overlap() -> None:
    # 5 cells in 3 bins: [0, 2), [1, 4), [3, 5).
    third = 1 / 3
    expected = torch.tensor([[0.5, 0.5, 0, 0, 0], [0, third, third, third, 0], [0, 0, 0, 0.5, 0.5]])
    torch.testing.assert_close(averaging_rows(5, 3, torch.zeros(())), expected)


def test_pooling_gradients_are_torchs() -> None:
    x = torch.randn(1, 2, 7, 10, dtype=torch.float64, requires_grad=True)
    cotangent = torch.randn(1, 2, 6, 6, dtype=torch.float64)
    (ours,) = torch.autograd.grad(adaptive_average_pool(x, 6), x, cotangent)
    (theirs,) = torch.autograd.grad(F.adaptive_avg_pool2d(x, 6), x, cotangent)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("before", "after"), [((4, 5), (8, 10)), ((9, 11), (5, 6)), ((3, 3), (1, 7))])
def test_resizing_is_bilinear_between_pixel_centres(before: tuple[int, int], after: tuple[int, int]) -> None:
    # Bilinear resizing reproduces a linear function of the position, away from the border.
    y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in before), indexing="ij")
    plane = (2 * y - 3 * x).expand(1, 1, -1, -1)
    positions = [((torch.arange(m) + 0.5) * n / m).clamp(0.5, n - 0.5) for n, m in zip(before, after, strict=True)]
    y, x = torch.meshgrid(*positions, indexing="ij")
    torch.testing.assert_close(resize(plane, after)[0, 0], 2 * y - 3 * x)


def test_a_map_of_the_right_size_is_handed_back() -> None:
    x = torch.randn(1, 2, 3, 4)
    assert resize(x, (3, 4)) is x
