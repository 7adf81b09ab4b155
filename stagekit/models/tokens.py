"""Token sequences as maps and back, so that SPMs and heads see maps whatever the backbone is.

The grid is not a property of any parameter: it follows from the frame's size, and is a constant of an exported graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo
from stagekit.models.spm import SPM, SPMOutput


def as_map(feature: Tensor, boundary: BoundaryInfo, grid: tuple[int, int]) -> Tensor:
    """The feature of a boundary as (batch, c, h, w); prefix tokens (the class token) are left out.

    Raises:
        UsageError: if the sequence is not ``prefix + h * w`` long.
    """
    if boundary.kind == "map":
        return feature
    height, width = grid
    tokens = int(feature.shape[1])
    if tokens != boundary.prefix + height * width:
        raise UsageError(
            f"{tokens} tokens are not {boundary.prefix} + {height} x {width}",
            where=boundary.name,
            remedy="pass the frame size that the feature was computed from",
        )
    return feature[:, boundary.prefix :].transpose(1, 2).reshape(-1, boundary.channels, height, width)


def prompt(
    spm: SPM, boundary: BoundaryInfo, grid: tuple[int, int], feature: Tensor, semantic: Tensor | None
) -> SPMOutput:
    """Runs an SPM at a boundary of either kind; ``prompted`` comes back in the feature's own layout.

    Of tokens (batch, prefix + h * w, c) the prefix passes through unchanged.
    """
    if boundary.kind == "map":
        result: SPMOutput = spm(feature, semantic)
        return result
    prompted, current, logits = spm(as_map(feature, boundary, grid), semantic)
    # -1 stands for the batch: an exported graph then needs no shape operator.
    tokens = prompted.reshape(-1, boundary.channels, grid[0] * grid[1]).transpose(1, 2)
    if boundary.prefix:
        tokens = torch.cat([feature[:, : boundary.prefix], tokens], dim=1)
    return SPMOutput(tokens, current, logits)
