"""Vision Transformers: ViT-L/16 and ViT-B/16 (arXiv 2010.11929), ViT-S/14 in DINOv2's form (arXiv 2304.07193).

Pre-norm transformer units over a class token and a grid of patch tokens, with learned position embeddings. A feature
is (batch, 1 + h * w, width): the class token first, then the grid row by row. DINOv2's form has a learned scale per
channel on each branch (LayerScale).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo, Preprocessing, SizeDependent, Unit
from stagekit.models.vit_weights import grid_side, translate

NORM_EPSILON = 1e-6
IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


class Embedding(SizeDependent):
    """Image (batch, 3, height, width) to tokens (batch, 1 + h * w, width), positions added.

    The position embedding keeps the grid it was trained on, so that weights do not depend on the frame size; for
    other grids it is resized (bicubic, *to the size*, half-pixel centres, no antialiasing). Eager calls resize anew,
    which keeps gradients and follows changed weights. Exported graphs hold the result as a constant.
    """

    def __init__(self, width: int, patch: int, grid: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid * grid, width))
        self.register_buffer("prepared", None, persistent=False)
        self.prepared: Tensor | None
        self.prepared_size: tuple[int, int] | None = None

    def prepare(self, height: int, width: int) -> None:
        self.prepared = self.offsets(height, width).detach().clone()
        self.prepared_size = (height, width)

    def offsets(self, height: int, width: int) -> Tensor:
        """What is added to the patch tokens behind a zero token: (1, 1 + h * w, channels).

        Raises:
            UsageError: a side that is not a multiple of the patch.
        """
        check_size(height, width, self.patch)
        rows, columns = height // self.patch, width // self.patch
        side = grid_side(self.pos_embed)
        first, grid = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        if (rows, columns) != (side, side):
            image = grid.reshape(1, side, side, -1).permute(0, 3, 1, 2)
            image = F.interpolate(image, size=(rows, columns), mode="bicubic", align_corners=False, antialias=False)
            grid = image.flatten(2).transpose(1, 2)
        return torch.cat([self.cls_token + first, grid], dim=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = int(x.shape[-2]), int(x.shape[-1])
        if _exporting():
            if self.prepared is None or self.prepared_size != (height, width):
                raise UsageError(
                    f"the position embedding is prepared for frames of {self.prepared_size}, not {(height, width)}",
                    remedy=f"call backbone.prepare({height}, {width}) before the export",
                )
            offsets = self.prepared
        else:
            offsets = self.offsets(height, width)
        tokens = self.proj(x).reshape(-1, offsets.shape[2], offsets.shape[1] - 1).transpose(1, 2)
        # The class token is a zero row plus its constant: no Expand to a batch size in the graph.
        return F.pad(tokens, (0, 0, 1, 0)) + offsets


class Attention(nn.Module):
    """Multi-head self-attention in plain products, so that every exporter and runtime knows the operations."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.width = width
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        tokens = int(x.shape[1])  # fixed by the frame size; only the batch stays open in an exported graph
        query, key, value = (
            part.reshape(-1, tokens, self.heads, self.width // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(self.width, dim=-1)
        )
        weights = torch.softmax((query * self.scale) @ key.transpose(-2, -1), dim=-1)
        result: Tensor = self.proj((weights @ value).transpose(1, 2).reshape(-1, tokens, self.width))
        return result


class LayerScale(nn.Module):
    """A learned factor for every channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class TransformerUnit(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; the mlp is four times as wide, with exact GELU."""

    def __init__(self, width: int, heads: int, *, layer_scale: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.attn = Attention(width, heads)
        self.ls1 = LayerScale(width) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps=NORM_EPSILON)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})
        self.gelu = nn.GELU(approximate="none")
        self.ls2 = LayerScale(width) if layer_scale else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x)))
        hidden: Tensor = self.gelu(self.mlp["fc1"](self.norm2(x)))
        result: Tensor = x + self.ls2(self.mlp["fc2"](hidden))
        return result


@dataclass(frozen=True, slots=True)
class ViT:
    """A declared Vision Transformer.

    Args:
        name: as registered.
        width: channels of a token.
        depth: transformer units.
        heads: attention heads.
        patch: side of a patch in pixels.
        grid: patches along a side of the grid that the position embedding is stored for.
        cuts: boundaries that are made unless others are asked for.
        size: default frame (height, width) in pixels.
        layer_scale: DINOv2's factors on each branch.
    """

    name: str
    width: int
    depth: int
    heads: int
    patch: int
    grid: int
    cuts: tuple[str, ...]
    size: tuple[int, int]
    layer_scale: bool = False

    revision: ClassVar[int] = 1
    aliases: ClassVar[tuple[str, ...]] = ()
    preprocessing: ClassVar[Preprocessing] = IMAGENET

    @property
    def output_strides(self) -> tuple[int, ...]:
        """The patch size alone."""
        return (self.patch,)

    def units(self, output_stride: int) -> list[Unit]:
        """Embedding, transformer units and the final LayerNorm, randomly initialised.

        The last boundary, ``unit<depth>``, lies behind the final norm, which belongs to the last segment.
        """

        def boundary(name: str) -> BoundaryInfo:
            return BoundaryInfo(name, self.width, self.patch, kind="tokens", prefix=1)

        units = [Unit("stem", Embedding(self.width, self.patch, self.grid), boundary("stem"))]
        for number in range(1, self.depth + 1):
            module = TransformerUnit(self.width, self.heads, layer_scale=self.layer_scale)
            behind = boundary(f"unit{number}") if number < self.depth else None
            units.append(Unit(f"unit{number}", module, behind, optional=True))
        units.append(Unit("norm", nn.LayerNorm(self.width, eps=NORM_EPSILON), boundary(f"unit{self.depth}")))
        for unit in units:
            _initialise(unit.module)
        return units

    def fitted(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> ViT:
        """This variant with the grid of the position embedding that the weights hold."""
        position = state.get("stem.pos_embed")
        return self if position is None else replace(self, grid=grid_side(position, where))

    def translate(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> dict[str, Tensor]:
        """Weights under our names, from those of timm, DINOv2, mmseg, mmpretrain, torchvision or transformers.

        All of these are the same function: norms of epsilon 1e-6, exact GELU, a bias on query, key and value.
        """
        return translate(state)


def check_size(height: int, width: int, patch: int) -> None:
    """Raises UsageError, naming the nearest sizes that fit, unless both sides are multiples of ``patch``."""
    for side, length in (("height", height), ("width", width)):
        if length < patch or length % patch:
            below = max(length // patch, 1) * patch
            raise UsageError(
                f"frames must be multiples of the {patch}-pixel patch, but their {side} is {length}",
                where=f"{height}x{width}",
                remedy=f"use a {side} of {below}" + (f" or {below + patch}" if below < length else ""),
            )


def _exporting() -> bool:
    return torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()


def _initialise(module: nn.Module) -> None:
    """Normal weights of deviation 0.02 and zero biases, as in the original."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            nn.init.normal_(part.weight, std=0.02)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        if isinstance(part, Embedding):
            nn.init.normal_(part.cls_token, std=0.02)
            nn.init.normal_(part.pos_embed, std=0.02)


CUTS_OF_24 = ("unit8", "unit12", "unit16", "unit24")  # serves one, two and three equal stages
CUTS_OF_12 = ("unit4", "unit6", "unit8", "unit12")
VARIANTS = (
    ViT("vit_l16", 1024, 24, 16, 16, grid=32, cuts=CUTS_OF_24, size=(512, 512)),
    ViT("vit_b16", 768, 12, 12, 16, grid=32, cuts=CUTS_OF_12, size=(512, 512)),
    ViT("vit_s14", 384, 12, 6, 14, grid=37, cuts=CUTS_OF_12, size=(224, 224), layer_scale=True),
)
