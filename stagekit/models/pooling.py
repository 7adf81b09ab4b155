"""Changing a map's resolution with operations that every runtime has: matrix products and bilinear resizing.

Sizes may be symbolic while a graph is exported: a task's graphs are made for a backbone, not for an input size.
Once its size is known, everything that follows from it is a constant.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """(batch, c, h', w') to (batch, c, h, w), bilinear with align_corners=False; the same size is left alone."""
    if spatial(x) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def spatial(x: Tensor) -> tuple[int, int]:
    """The (h, w) of a map (batch, c, h, w); symbols while a graph is exported with open sizes."""
    return x.shape[-2], x.shape[-1]


def adaptive_average_pool(x: Tensor, bins: int) -> Tensor:
    """(batch, c, h, w) to (batch, c, bins, bins): torch's ``adaptive_avg_pool2d`` as two matrix products.

    The mean over a rectangle is the mean over columns of the mean over rows. Bins that do not divide the map
    have no ONNX operator; torch's exporters refuse them or unroll them into hundreds of nodes.
    """
    height, width = spatial(x)
    # Columns first: the large product then has a two-dimensional right side, which runtimes turn into one GEMM.
    columns = averaging_rows(width, bins, x).transpose(0, 1)
    return torch.matmul(averaging_rows(height, bins, x), torch.matmul(x, columns))


def averaging_rows(size: int, bins: int, like: Tensor) -> Tensor:
    """The (bins, size) matrix whose row i averages cells floor(i size / bins) to ceil((i + 1) size / bins) - 1.

    A cell lies in bin i if ``i size < (cell + 1) bins`` and ``cell bins < (i + 1) size``: the same bounds
    without a division, exact in float32 up to 2^24.

    Args:
        like: gives element type and device.
    """
    # Counted in float32 at least: bfloat16 holds no integer above 256 exactly.
    kind = torch.promote_types(like.dtype, torch.float32)
    row = torch.arange(bins, device=like.device, dtype=kind).unsqueeze(1)
    cell = torch.arange(size, device=like.device, dtype=kind).unsqueeze(0)
    inside = ((row * size < (cell + 1) * bins) & (cell * bins < (row + 1) * size)).to(kind)
    return (inside / inside.sum(dim=1, keepdim=True)).to(like.dtype)
