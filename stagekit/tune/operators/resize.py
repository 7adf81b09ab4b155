"""Resize, axis by axis: the coordinates are those of ONNX's specification, whatever torch's own modes do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stagekit.errors import GraphError
from stagekit.tune.operators.operator import Attributes, integers


def resize(inputs: Sequence[Any], attributes: Attributes) -> Tensor:
    x, _, scales, sizes = (*inputs, None, None, None)[:4]
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get("antialias", 0):
        raise GraphError(f"a Resize of mode {mode!r} is not simulated; expected nearest or linear without antialias")
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise GraphError("a Resize that keeps the aspect ratio is not simulated")
    axes = [a % x.dim() for a in attributes.get("axes", range(x.dim()))]
    if sizes is not None:
        wanted = [(size, size / x.shape[axis]) for axis, size in zip(axes, integers(sizes), strict=True)]
    else:
        wanted = [(int(x.shape[a] * s), s) for a, s in zip(axes, scales.flatten().tolist(), strict=True)]
    result: Tensor = x
    for axis, (size, scale) in zip(axes, wanted, strict=True):
        have = result.shape[axis]
        if (size, scale) != (have, 1):
            result = _along(result, axis, _coordinates(have, size, scale, attributes), mode, attributes)
    return result


def _along(x: Tensor, axis: int, at: Tensor, mode: str, attributes: Attributes) -> Tensor:
    last = x.shape[axis] - 1
    if mode == "nearest":
        rounded = {
            "round_prefer_floor": lambda: torch.ceil(at - 0.5),
            "round_prefer_ceil": lambda: torch.floor(at + 0.5),
            "floor": lambda: torch.floor(at),
            "ceil": lambda: torch.ceil(at),
        }[attributes.get("nearest_mode", "round_prefer_floor")]()
        return x.index_select(axis, rounded.clamp(0, last).long().to(x.device))
    at = at.clamp(0, last)
    below = torch.floor(at)
    shape = [1] * x.dim()
    shape[axis] = -1
    share = (at - below).to(x.dtype).to(x.device).view(shape)
    left = x.index_select(axis, below.long().to(x.device))
    right = x.index_select(axis, (below + 1).clamp(max=last).long().to(x.device))
    return left + (right - left) * share


def _coordinates(have: int, size: int, scale: float, attributes: Attributes) -> Tensor:
    """Where in the input each place of the output lies."""
    out = torch.arange(size, dtype=torch.float64)
    kind = attributes.get("coordinate_transformation_mode", "half_pixel")
    if kind == "asymmetric":
        return out / scale
    if kind == "align_corners":
        return out * ((have - 1) / (size - 1) if size > 1 else 0)
    if kind == "pytorch_half_pixel" and size == 1:
        return torch.zeros(1, dtype=torch.float64)
    if kind in ("half_pixel", "pytorch_half_pixel"):
        return (out + 0.5) / scale - 0.5
    raise GraphError(f"a Resize with coordinates {kind!r} is not simulated")
