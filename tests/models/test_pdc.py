"""PDC against the definition in plain numpy, and its counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stagekit.errors import UsageError
from stagekit.models.counts import macs, parameters
from stagekit.models.pdc import PDC

Array = NDArray[np.float64]


def convolve(x: Array, weight: Array, bias: Array, dilation: int) -> Array:
    """A 3x3 convolution by its definition: a sum over nine shifted copies of the zero-padded map."""
    batch, _, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (dilation, dilation), (dilation, dilation)))
    out = np.zeros((batch, weight.shape[0], height, width)) + bias[:, None, None]
    for row in range(3):
        for column in range(3):
            shifted = padded[
                :, :, row * dilation : row * dilation + height, column * dilation : column * dilation + width
            ]
            out += np.einsum("oi,bihw->bohw", weight[:, :, row, column], shifted)
    return out


def array(tensor: torch.Tensor) -> Array:
    return tensor.detach().double().numpy()


def test_the_pyramid_is_one_dilated_convolution_for_each_quarter_and_a_fuse() -> None:
    torch.manual_seed(0)
    pdc = PDC(12, (1, 2, 4, 8))
    x = torch.randn(2, 12, 11, 9)
    parts = [
        convolve(array(x[:, 3 * i : 3 * i + 3]), array(branch.weight), array(branch.bias), dilation)
        for i, (branch, dilation) in enumerate(zip(pdc.branches, (1, 2, 4, 8), strict=True))
    ]
    fused = np.einsum("oi,bihw->bohw", array(pdc.fuse.weight)[:, :, 0, 0], np.concatenate(parts, axis=1))
    expected = fused + array(pdc.fuse.bias)[:, None, None]
    np.testing.assert_allclose(array(pdc(x)), expected, atol=1e-5)


def test_the_ablation_is_one_3x3_convolution() -> None:
    torch.manual_seed(0)
    pdc = PDC(6, mode="single")  # no groups, so any width will do
    x = torch.randn(1, 6, 5, 7)
    expected = convolve(array(x), array(pdc.convolution.weight), array(pdc.convolution.bias), 1)
    np.testing.assert_allclose(array(pdc(x)), expected, atol=1e-5)
    assert parameters(pdc, biases=False) == 9 * 6 * 6


@pytest.mark.parametrize("dilation", [1, 2, 4, 8])
def test_a_branch_reaches_as_far_as_its_dilation(dilation: int) -> None:
    pdc = PDC(4, (dilation,) * 4)
    torch.nn.init.ones_(pdc.fuse.weight)
    for branch in pdc.branches:
        torch.nn.init.ones_(branch.weight)
    x = torch.zeros(1, 4, 21, 21)
    quiet = pdc(x)
    x[..., 10, 10] = 1
    rows = (pdc(x) - quiet).abs().amax(dim=(0, 1, 3)).nonzero().flatten().tolist()
    assert rows == [10 - dilation, 10, 10 + dilation]


@pytest.mark.parametrize("width", [4, 32, 132])
def test_a_pyramid_has_3_25_width_squared_weights(width: int) -> None:
    # Four groups of 9 (width / 4)^2 are 2.25 width^2, the fuse is width^2.
    assert parameters(PDC(width), biases=False) == 3.25 * width**2
    assert parameters(PDC(width)) == 3.25 * width**2 + 2 * width
    assert macs(PDC(width), torch.empty(1, width, 5, 6)) == 3.25 * width**2 * 30


@pytest.mark.parametrize(("width", "nearest"), [(30, "28 or 32"), (1, "4"), (133, "132 or 136")])
def test_a_width_that_does_not_split_names_the_nearest_that_do(width: int, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"{nearest}$"):
        PDC(width)


def test_other_numbers_of_groups_work() -> None:
    x = torch.randn(1, 12, 6, 6)
    assert PDC(12, (1, 3, 9))(x).shape == x.shape
    with pytest.raises(UsageError, match="at least one"):
        PDC(12, ())
    with pytest.raises(UsageError, match="unknown PDC mode"):
        PDC(12, mode="double")  # type: ignore[arg-type]
