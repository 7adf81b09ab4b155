"""Resize, axis by axis: the coordinates are those of ONNX's specification, whatever torch's own modes do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stagekit.errors import GraphError
from stagekit.graph.resize import COORDINATES, Reals, nearest_indices, source_positions
from stagekit.tune.operators.operator import Attributes, integers


def resize(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None, None)[:4]
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get("antialias", 0):
        raise GraphError(f"a Resize of mode {mode!r} is not simulated; expected nearest or linear without antialias")
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise GraphError("a Resize that keeps the aspect ratio is not simulated")
    coordinates = attributes.get("coordinate_transformation_mode", "half_pixel")
    if coordinates not in COORDINATES:
        raise GraphError(f"a Resize with coordinates {coordinates!r} is not simulated")
    axes = [a % x.dim() for a in attributes.get("axes", range(x.dim()))]
    if sizes is not None:
        wanted = [(size, size / x.shape[axis]) for axis, size in zip(axes, integers(sizes), strict=True)]
    else:
        wanted = [(int(x.shape[a] * s), s) for a, s in zip(axes, scales.flatten().tolist(), strict=True)]
    result: Tensor = x
    for axis, (size, scale) in zip(axes, wanted, strict=True):
        have = result.shape[axis]
        if (size, scale) != (have, 1):
            at = source_positions(coordinates, have, size, scale)
            result = _along(result, axis, at, mode, attributes)
    return result


def _along(x: Tensor, axis: int, at: Reals, mode: str, attributes: Attributes) -> Tensor:
    last = x.shape[axis] - 1
    if mode == "nearest":
        chosen = nearest_indices(at, attributes.get("nearest_mode", "round_prefer_floor"), last + 1)
        return x.index_select(axis, torch.tensor(chosen, device=x.device))
    at = np.clip(at, 0, last)
    below = np.floor(at)
    shape = [1] * x.dim()
    shape[axis] = -1
    share = torch.tensor(at - below, dtype=x.dtype, device=x.device).view(shape)
    left, right = (
        x.index_select(axis, torch.tensor(index, dtype=torch.long, device=x.device))
        for index in (below, np.minimum(below + 1, last))
    )
    return left + (right - left) * share
