"""Two tiny backbones that have all that the real ones have: several strides, units inside a stage, tokens."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from stagekit.models.backbone import Backbone, BoundaryInfo, Preprocessing

BYTES = Preprocessing(mean=(120.0, 115.0, 105.0), std=(60.0, 58.0, 57.0))


class ConvUnit(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class PatchEmbedding(nn.Module):
    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch, stride=patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.projection(x).flatten(2).transpose(1, 2)
        return torch.cat([self.class_token.expand(len(x), -1, -1), patches], dim=1)


class TokenUnit(nn.Module):
    """Every token sees the mean of all, the class token included."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        return x + self.linear(y + y.mean(dim=1, keepdim=True)).tanh()


@pytest.fixture
def conv_backbone() -> Backbone:
    """Stem and stages 1 to 3 at strides 2, 4, 8, 8; stage 2 has two units."""
    torch.manual_seed(0)
    segments = [
        nn.Sequential(OrderedDict(stem=ConvUnit(3, 8, 2))),
        nn.Sequential(OrderedDict(stage1_1=ConvUnit(8, 12, 2))),
        nn.Sequential(OrderedDict(stage2_1=ConvUnit(12, 16, 2), stage2_2=ConvUnit(16, 16, 1))),
        nn.Sequential(OrderedDict(stage3_1=ConvUnit(16, 20, 1))),
    ]
    boundaries = [
        BoundaryInfo("stem", 8, 2),
        BoundaryInfo("stage1", 12, 4),
        BoundaryInfo("stage2", 16, 8),
        BoundaryInfo("stage3", 20, 8),
    ]
    return Backbone({"name": "tiny-conv"}, BYTES, boundaries, segments, (32, 48)).eval()


@pytest.fixture
def token_backbone() -> Backbone:
    """Patches of 8 pixels and a class token, 12 wide; stages of one and two units."""
    torch.manual_seed(0)
    segments = [
        nn.Sequential(OrderedDict(stem=PatchEmbedding(12, 8))),
        nn.Sequential(OrderedDict(unit1=TokenUnit(12))),
        nn.Sequential(OrderedDict(unit2=TokenUnit(12), unit3=TokenUnit(12))),
    ]
    boundaries = [BoundaryInfo(name, 12, 8, "tokens", 1) for name in ("stem", "unit1", "unit3")]
    return Backbone({"name": "tiny-token"}, BYTES, boundaries, segments, (32, 48)).eval()


@pytest.fixture
def frames() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (2, 32, 48, 3), dtype=torch.uint8, generator=generator)
