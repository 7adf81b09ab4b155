"""Heads: the features of one or several boundaries to class logits.

To add one: subclass :class:`Head` and enter it in :data:`HEADS`. Heads see maps only; token boundaries are turned into
maps before them. Logits come out at the head's own resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo
from stagekit.models.counts import macs
from stagekit.models.pooling import adaptive_average_pool, resize, spatial


class Head(nn.Module):
    """Base class.

    Args:
        boundaries: what it reads, in the order in which ``forward`` is given the features.
        classes: number of classes, s.
    """

    def __init__(self, boundaries: Sequence[BoundaryInfo], classes: int) -> None:
        super().__init__()
        self.boundaries = tuple(boundaries)
        self.classes = classes

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of the boundaries read."""
        return tuple(boundary.name for boundary in self.boundaries)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """One map (batch, channels, h, w) for each boundary to logits (batch, classes, h', w')."""
        raise NotImplementedError

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one frame of ``height`` x ``width`` pixels."""
        return macs(self, [torch.empty(1, b.channels, *b.grid(height, width), device="meta") for b in self.boundaries])


class PPMHead(Head):
    """Pyramid pooling (PSPNet), as mmseg's PSPHead with align_corners=False.

    Training it needs a batch of at least 2, since BatchNorm sees one value a channel behind the 1x1 pool.
    """

    def __init__(
        self,
        boundary: BoundaryInfo,
        classes: int,
        width: int = 512,
        pools: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
    ) -> None:
        super().__init__([boundary], classes)
        self.pools = tuple(pools)
        self.branches = nn.ModuleList(_ConvNormReLU(boundary.channels, width, 1) for _ in pools)
        self.bottleneck = _ConvNormReLU(boundary.channels + len(self.pools) * width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(width, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits at the feature's own resolution."""
        (x,) = features
        pooled = [
            resize(branch(adaptive_average_pool(x, bins)), spatial(x))
            for bins, branch in zip(self.pools, self.branches, strict=True)
        ]
        x = self.bottleneck(torch.cat([x, *pooled], dim=1))
        result: Tensor = self.classifier(self.dropout(x))
        return result


class PUPHead(Head):
    """Progressive upsampling (SETR): 3x3 convolutions, each followed by bilinear upsampling.

    Args:
        boundary: what it reads.
        classes: number of classes.
        convolutions: how many; 3 for the paper's ResNet head, 4 for SETR-PUP, 2 for its auxiliary heads.
        scale: of each upsampling; SETR's auxiliary heads use 4.
        layer_norm: whether the feature is normalised first, as a transformer's raw residual stream must be.
    """

    def __init__(
        self,
        boundary: BoundaryInfo,
        classes: int,
        convolutions: int = 3,
        width: int = 256,
        scale: int = 2,
        layer_norm: bool = False,
    ) -> None:
        super().__init__([boundary], classes)
        self.scale = scale
        self.norm = nn.LayerNorm(boundary.channels, eps=1e-6) if layer_norm else None
        widths = [boundary.channels] + [width] * convolutions
        self.convolutions = nn.ModuleList(_ConvNormReLU(a, b, 3) for a, b in pairwise(widths))
        self.classifier = _classifier(width, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits at ``scale ** convolutions`` times the feature's resolution."""
        (x,) = features
        if self.norm is not None:
            x = self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        for convolution in self.convolutions:
            x = convolution(x)
            height, width = spatial(x)
            x = resize(x, (height * self.scale, width * self.scale))
        result: Tensor = self.classifier(x)
        return result


class LightHead(Head):
    """For small backbones: every boundary thinned by a 1x1 convolution, summed at the finest one's resolution.

    On a small backbone the last boundary alone is too coarse, while a PPM would outweigh the backbone. At width 32 on
    four boundaries of EfficientNet-Lite0 (224 x 224, 17 classes) it costs 9 % of the backbone's multiply-accumulates.
    """

    def __init__(self, boundaries: Sequence[BoundaryInfo], classes: int, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__(boundaries, classes)
        self.laterals = nn.ModuleList(
            nn.Sequential(nn.Conv2d(b.channels, width, 1, bias=False), nn.BatchNorm2d(width)) for b in boundaries
        )
        self.mix = _ConvNormReLU(width, width, 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = _classifier(width, classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits at the finest feature's resolution."""
        size = max(spatial(feature) for feature in features)
        # Thinned before resizing: interpolation then costs `width` channels, not the feature's.
        thin = [resize(lateral(x), size) for lateral, x in zip(self.laterals, features, strict=True)]
        total = thin[0]
        for other in thin[1:]:
            total = total + other
        result: Tensor = self.classifier(self.dropout(self.mix(F.relu(total))))
        return result


def setr_auxiliary_heads(taps: Sequence[BoundaryInfo], classes: int) -> list[PUPHead]:
    """SETR-PUP's auxiliary heads, one for each tapped unit: two 3x3 convolutions, each followed by x4 upsampling.

    They normalise what they read; the main head need not, as a ViT's last segment ends with a LayerNorm.
    """
    return [PUPHead(tap, classes, convolutions=2, scale=4, layer_norm=True) for tap in taps]


HEADS: dict[str, Callable[[Sequence[BoundaryInfo], int], Head]] = {
    "light": LightHead,
    "ppm": lambda boundaries, classes: PPMHead(_only(boundaries, "ppm"), classes),
    "pup": lambda boundaries, classes: PUPHead(_only(boundaries, "pup"), classes),
    "setr-pup": lambda boundaries, classes: PUPHead(_only(boundaries, "setr-pup"), classes, convolutions=4),
}


def create_head(name: str, boundaries: Sequence[BoundaryInfo], classes: int) -> Head:
    """The head registered as ``name`` that reads ``boundaries``.

    Raises:
        UsageError: if there is no such head, or it reads one boundary and is given several.
    """
    if name not in HEADS:
        close = get_close_matches(name, HEADS, 1)
        remedy = f"did you mean '{close[0]}'?" if close else f"one of {', '.join(HEADS)}"
        raise UsageError(f"unknown head '{name}'", where="head", remedy=remedy)
    if not boundaries:
        raise UsageError("a head reads at least one boundary", where=name)
    return HEADS[name](boundaries, classes)


def _only(boundaries: Sequence[BoundaryInfo], name: str) -> BoundaryInfo:
    if len(boundaries) == 1:
        return boundaries[0]
    names = ", ".join(b.name for b in boundaries)
    raise UsageError(
        f"this head reads one boundary, got {names}", where=name, remedy="name one, or use the head 'light'"
    )


class _ConvNormReLU(nn.Sequential):
    """mmseg's ConvModule: convolution without bias, BatchNorm, ReLU; the map keeps its size."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


def _classifier(width: int, classes: int) -> nn.Conv2d:
    """The last 1x1 convolution, with bias; it starts small, as in mmseg, so that first logits are near uniform."""
    convolution = nn.Conv2d(width, classes, 1)
    nn.init.normal_(convolution.weight, std=0.01)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution
