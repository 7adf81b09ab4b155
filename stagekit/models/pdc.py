"""Pyramid Dilation Convolution: context at several distances for the price of one thin convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from stagekit.errors import UsageError
from stagekit.models.dilated import DilatedConv2d

PDCMode = Literal["pyramid", "single"]


class PDC(nn.Module):
    """Context over a map of unchanged width and size (paper section 3, PDC).

    ``pyramid`` splits the channels into equal groups, gives each a 3x3 convolution of its own dilation rate,
    joins them and fuses them with a 1x1 convolution. ``single`` is the paper's ablation (its table 7): one plain
    3x3 convolution in place of all that.

    Args:
        width: channels in and out.
        dilations: one rate for each group; the paper does not state its rates.
        mode: ``pyramid`` or ``single``.

    Raises:
        UsageError: if ``width`` does not split into ``len(dilations)`` equal groups.
    """

    def __init__(self, width: int, dilations: Sequence[int] = (1, 2, 4, 8), mode: PDCMode = "pyramid") -> None:
        super().__init__()
        if mode not in ("pyramid", "single"):
            raise UsageError(f"unknown PDC mode '{mode}'", where="mode", remedy="use 'pyramid' or 'single'")
        self.mode = mode
        if mode == "single":
            self.convolution = nn.Conv2d(width, width, 3, padding=1)
            return
        self.group = _group_width(width, len(dilations))
        self.branches = nn.ModuleList(
            DilatedConv2d(self.group, self.group, 3, padding=rate, dilation=rate) for rate in dilations
        )
        self.fuse = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, width, h, w) to the same shape."""
        if self.mode == "single":
            single: Tensor = self.convolution(x)
            return single
        groups = torch.split(x, self.group, dim=1)
        joined = torch.cat([branch(group) for branch, group in zip(self.branches, groups, strict=True)], dim=1)
        fused: Tensor = self.fuse(joined)
        return fused


def _group_width(width: int, groups: int) -> int:
    if groups == 0:
        raise UsageError("a PDC needs at least one dilation rate", where="dilations", remedy="for example (1, 2, 4, 8)")
    if width > 0 and width % groups == 0:
        return width // groups
    below = max(width, 0) // groups * groups
    nearest = [str(w) for w in (below, below + groups) if w > 0]
    raise UsageError(
        f"a PDC of {groups} dilation rates needs a width divisible by {groups}, got {width}",
        where="width",
        remedy=f"the nearest: {' or '.join(nearest)}",
    )
