"""What every backbone is: a stem and stages in a chain, with a named boundary after each segment.

A *segment* is what becomes one frozen graph. The first is the stem (normalisation included), the others
are stages, or parts of a stage where a cut lies inside it. Segment ``i`` ends at ``boundaries[i]``.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stagekit.errors import UsageError


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Per-channel normalisation of RGB bytes: ``(x - mean) / std`` with mean and std in 0..255 units."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class BoundaryInfo:
    """A place between two segments.

    Args:
        name: ``stem``, ``stage1`` (after stage 1), ``stage3.7`` (after unit 7 of stage 3).
        channels: width of the feature.
        stride: input pixels per feature cell along one side (a ViT's patch size).
        kind: ``map`` for (batch, channels, h, w), ``tokens`` for (batch, prefix + h * w, channels).
        prefix: leading tokens that are not grid cells (the class token).
    """

    name: str
    channels: int
    stride: int
    kind: Literal["map", "tokens"] = "map"
    prefix: int = 0

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """The feature's (h, w) for frames of ``height`` x ``width`` pixels.

        Convolutions pad so that odd sizes round up; patch embeddings need exact multiples.
        """
        return -(-height // self.stride), -(-width // self.stride)


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest piece of an architecture, never divided: a residual unit, a transformer unit, a stem.

    Args:
        name: of the module inside its segment; weights are named after it, whatever the cuts.
        module: what runs.
        boundary: the place behind it where the chain may be cut; None where it may not.
        optional: whether the cut is made only when asked for.
    """

    name: str
    module: nn.Module
    boundary: BoundaryInfo | None
    optional: bool = False


def chain(units: Sequence[Unit], cuts: Sequence[str]) -> tuple[list[BoundaryInfo], list[nn.Module]]:
    """Groups units into segments: cut at every boundary that is not optional, and at the ``cuts`` named.

    Raises:
        UsageError: a cut that no unit offers.
    """
    offered = [unit.boundary.name for unit in units if unit.boundary]
    for cut in cuts:
        if cut not in offered:
            near = ", ".join(difflib.get_close_matches(cut, offered, n=5, cutoff=0.4)) or ", ".join(offered)
            raise UsageError(f"there is no boundary {cut!r} to cut at", where=cut, remedy=f"boundaries near it: {near}")
    boundaries: list[BoundaryInfo] = []
    segments: list[nn.Module] = []
    pending: OrderedDict[str, nn.Module] = OrderedDict()
    for unit in units:
        pending[unit.name] = unit.module
        if unit.boundary and (not unit.optional or unit.boundary.name in cuts):
            boundaries.append(unit.boundary)
            segments.append(nn.Sequential(pending))
            pending = OrderedDict()
    return boundaries, segments


class SizeDependent(nn.Module):
    """A module with a constant that depends on the frame size, such as resized position embeddings."""

    def prepare(self, height: int, width: int) -> None:
        """Computes the constant for frames of ``height`` x ``width`` pixels."""
        raise NotImplementedError


class Normalise(nn.Module):
    """uint8 frames (batch, height, width, 3) RGB to normalised float32 (batch, 3, height, width).

    Kept as explicit operations in front of the first convolution, because folding the mean into its bias
    would change what zero padding means at the border.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(preprocessing.std).view(1, 3, 1, 1), persistent=False)
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, frames: Tensor) -> Tensor:
        return (frames.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean) * self.scale


class Backbone(nn.Module):
    """A chain of segments over uint8 NHWC frames; the base class of every architecture.

    Args:
        architecture: the registered name with every option that changes the function, e.g.
            ``{"name": "resnet50", "revision": 1, "output_stride": 8}``. It enters the backbone id.
        preprocessing: normalisation of the frames.
        boundaries: one for each segment, in order.
        segments: modules in a chain; the first takes the *normalised float* image (batch, 3, height, width).
        size: default frame size (height, width) in pixels.
    """

    def __init__(
        self,
        architecture: dict[str, str | int],
        preprocessing: Preprocessing,
        boundaries: Sequence[BoundaryInfo],
        segments: Sequence[nn.Module],
        size: tuple[int, int],
    ) -> None:
        super().__init__()
        if len(boundaries) != len(segments):
            raise ValueError(f"{len(segments)} segments need as many boundaries, got {len(boundaries)}")
        self.architecture = dict(architecture)
        self.preprocessing = preprocessing
        self.boundaries = tuple(boundaries)
        self.size = size
        self.normalise = Normalise(preprocessing)
        self.segments = nn.ModuleList(segments)

    def prepare(self, height: int, width: int) -> None:
        """Makes constants of whatever depends on the frame size; call it just before an export.

        Eager calls need none of this. An exported graph must not hold a resize of weights, so under an exporter
        size-dependent modules read what was prepared here.

        Raises:
            UsageError: the architecture cannot take frames of this size.
        """
        for module in self.segments.modules():
            if isinstance(module, SizeDependent):
                module.prepare(height, width)

    def segment(self, index: int, x: Tensor) -> Tensor:
        """Runs one segment; segment 0 takes uint8 frames (batch, height, width, 3)."""
        if index == 0:
            x = self.normalise(x)
        result: Tensor = self.segments[index](x)
        return result

    def forward(self, frames: Tensor) -> list[Tensor]:
        """The features at all boundaries, in order, of uint8 frames (batch, height, width, 3)."""
        features: list[Tensor] = []
        x = frames
        for index in range(len(self.segments)):
            x = self.segment(index, x)
            features.append(x)
        return features
