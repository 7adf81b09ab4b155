"""ViT units as other tuning methods change them, so that what becomes of embedded graphs can be counted.

Structures only: nothing here is trained.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stagekit.models.backbone import Backbone
from stagekit.models.vit import TransformerUnit


class PromptedUnit(nn.Module):
    """VPT-deep (arXiv 2203.12119): every unit gets prompt tokens of its own, behind the class token.

    Args:
        unit: frozen.
        prompts: how many tokens.
        first: the first unit inserts its prompts; later ones put theirs where the last unit's came out.
        last: the last unit drops what came out.
    """

    def __init__(self, unit: TransformerUnit, prompts: int, *, first: bool, last: bool) -> None:
        super().__init__()
        self.unit, self.first, self.last = unit, first, last
        self.prompts = nn.Parameter(torch.randn(prompts, unit.attn.width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, 1 + prompts + cells, width); without prompts where the first begins and the last ends."""
        count = self.prompts.shape[0]
        cells = x[:, 1:] if self.first else x[:, 1 + count :]
        # Added to a slice, so that the graph has no Expand to a batch size.
        prompts = x[:, :1] * 0 + self.prompts
        x = self.unit(torch.cat([x[:, :1], prompts, cells], dim=1))
        return torch.cat([x[:, :1], x[:, 1 + count :]], dim=1) if self.last else x


class AdaptedUnit(nn.Module):
    """AdaptFormer (arXiv 2205.13535): a bottleneck beside the MLP, ``x + mlp(norm(x)) + s up(relu(down(norm(x))))``."""

    def __init__(self, unit: TransformerUnit, bottleneck: int, scale: float = 0.1) -> None:
        super().__init__()
        width = unit.attn.width
        self.unit, self.scale = unit, scale
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, 1 + cells, width)."""
        unit = self.unit
        x = x + unit.ls1(unit.attn(unit.norm1(x)))
        normed = unit.norm2(x)
        adapted = self.up(torch.relu(self.down(normed))) * self.scale
        hidden = unit.gelu(unit.mlp["fc1"](normed))
        result: Tensor = x + adapted + unit.ls2(unit.mlp["fc2"](hidden))
        return result


def with_vpt(backbone: Backbone, prompts: int) -> int:
    """Puts VPT-deep into a ViT in place; the parameters that a task learns inside it."""
    units = _units(backbone)
    for index, (segment, name, unit) in enumerate(units):
        setattr(segment, name, PromptedUnit(unit, prompts, first=index == 0, last=index + 1 == len(units)))
    return sum(prompts * unit.attn.width for _, _, unit in units)


def with_adaptformer(backbone: Backbone, bottleneck: int) -> int:
    """Puts AdaptFormer into a ViT in place; the parameters that a task learns inside it."""
    learned = 0
    for segment, name, unit in _units(backbone):
        adapted = AdaptedUnit(unit, bottleneck)
        setattr(segment, name, adapted)
        learned += sum(p.numel() for part in (adapted.down, adapted.up) for p in part.parameters())
    return learned


def _units(backbone: Backbone) -> list[tuple[nn.Module, str, TransformerUnit]]:
    """All units in order, each with the segment that holds it and its name there."""
    return [
        (segment, name, unit)
        for segment in backbone.segments
        for name, unit in segment.named_children()
        if isinstance(unit, TransformerUnit)
    ]
