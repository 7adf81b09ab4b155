"""EfficientNet-Lite0 and Lite2: the TensorFlow networks without squeeze-and-excitation, with ReLU6.

Source: the EfficientNet-Lite README of the tensorflow/tpu repository and the block table of arXiv 1905.11946. Stem
and head keep their width under scaling. TensorFlow's SAME padding puts the odd row and column at the end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from stagekit.models.backbone import BoundaryInfo, Preprocessing, Unit
from stagekit.models.dilated import DilatedConv2d
from stagekit.models.weights import Rename, rename

STEM_CHANNELS = 32
NORM_EPSILON = 1e-3
# The seven groups of blocks: the stage each belongs to, kernel, stride of its first block, expansion.
GROUPS = ((1, 3, 1, 1), (2, 3, 2, 6), (3, 5, 2, 6), (4, 3, 2, 6), (4, 5, 1, 6), (5, 5, 2, 6), (5, 3, 1, 6))
# What a classifier has behind the last block.
SURPLUS = (r"_conv_head\..+", r"_bn1\..+", r"_fc\..+")


def same_padding(size: int, kernel: int, stride: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's SAME padding (before, after) along one side, so that ``ceil(size / stride)`` cells result."""
    cells = -(-size // stride)
    total = max((cells - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


class SameConv2d(DilatedConv2d):
    """A convolution without bias under SAME padding; an explicit Pad appears only where the padding is lopsided."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, dilation=dilation, groups=groups, bias=False)

    def convolve(self, x: Tensor) -> Tensor:
        kernel, stride, dilation = self.kernel_size[0], self.stride[0], self.dilation[0]
        if stride == 1:  # symmetric whatever the size, which need not be read (a tracer would record that)
            return F.conv2d(x, self.weight, None, 1, dilation * (kernel - 1) // 2, dilation, self.groups)
        top, bottom = same_padding(int(x.shape[-2]), kernel, stride, dilation)
        left, right = same_padding(int(x.shape[-1]), kernel, stride, dilation)
        if (top, left) == (bottom, right):
            return F.conv2d(x, self.weight, None, stride, (top, left), dilation, self.groups)
        x = F.pad(x, (left, right, top, bottom))
        return F.conv2d(x, self.weight, None, stride, 0, dilation, self.groups)


class ConvNorm(nn.Module):
    """Convolution, BatchNorm and, if asked for, ReLU6."""

    def __init__(self, conv: nn.Conv2d, *, activated: bool = True) -> None:
        super().__init__()
        self.conv = conv
        self.norm = nn.BatchNorm2d(conv.out_channels, eps=NORM_EPSILON, momentum=0.01)
        self.activation: nn.Module = nn.ReLU6() if activated else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.norm(self.conv(x)))
        return result


class InvertedResidual(nn.Module):
    """1x1 expansion, depthwise convolution, linear 1x1 projection; a shortcut where the shapes allow one."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, dilation: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expand: nn.Module = ConvNorm(SameConv2d(inputs, width, 1)) if expansion > 1 else nn.Identity()
        self.depthwise = ConvNorm(SameConv2d(width, width, kernel, stride, dilation, groups=width))
        self.project = ConvNorm(SameConv2d(width, outputs, 1), activated=False)
        self.shortcut = False

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.shortcut else y


@dataclass(frozen=True, slots=True)
class EfficientNetLite:
    """A declared EfficientNet-Lite.

    Args:
        name: as registered.
        aliases: other names for it.
        channels: output channels of each of the seven groups of blocks.
        repeats: blocks in each group.
        size: default frame (height, width) in pixels.
    """

    name: str
    aliases: tuple[str, ...]
    channels: tuple[int, ...]
    repeats: tuple[int, ...]
    size: tuple[int, int]

    revision: ClassVar[int] = 1
    cuts: ClassVar[tuple[str, ...]] = ()
    preprocessing: ClassVar[Preprocessing] = Preprocessing(mean=(127.0,) * 3, std=(128.0,) * 3)
    output_strides: ClassVar[tuple[int, ...]] = (32, 16)

    def units(self, output_stride: int) -> list[Unit]:
        """The convolutional stem and all blocks, randomly initialised.

        At output stride 16 the last stage keeps the resolution: its first block loses the stride, the others are
        dilated by 2, so every second cell is what the strided network would compute.
        """
        stem = ConvNorm(SameConv2d(3, STEM_CHANNELS, 3, stride=2))
        units = [Unit("stem", stem, BoundaryInfo("stem", STEM_CHANNELS, stride=2))]
        inputs, total_stride, dilation = STEM_CHANNELS, 2, 1
        names = self.block_names()
        groups = zip(GROUPS, self.channels, self.repeats, strict=True)
        blocks = [(group, outputs, index == 0) for group, outputs, repeat in groups for index in range(repeat)]
        for number, ((stage, kernel, stride, expansion), outputs, first) in enumerate(blocks):
            last = number + 1 == len(blocks) or blocks[number + 1][0][0] != stage
            step = stride if first else 1
            widened = total_stride * step > output_stride
            step = 1 if widened else step
            block = InvertedResidual(inputs, outputs, kernel, step, dilation, expansion)
            block.shortcut = (not first or stride == 1) and inputs == outputs
            dilation = 2 * dilation if widened else dilation
            inputs, total_stride = outputs, total_stride * step
            boundary = BoundaryInfo(f"stage{stage}" if last else names[number].replace("_", "."), outputs, total_stride)
            units.append(Unit(names[number], block, boundary, optional=not last))
        for unit in units:
            _initialise(unit.module, len(blocks))
        return units

    def block_names(self) -> list[str]:
        """Name of every block in order: ``stage4_3`` is the third of stage 4."""
        names: list[str] = []
        counts: dict[int, int] = {}
        for (stage, *_), repeat in zip(GROUPS, self.repeats, strict=True):
            for _ in range(repeat):
                counts[stage] = counts.get(stage, 0) + 1
                names.append(f"stage{stage}_{counts[stage]}")
        return names

    def fitted(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> EfficientNetLite:
        """Itself: no weight's shape is left to the file."""
        return self

    def translate(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> dict[str, Tensor]:
        """Weights under our names, from those of ``efficientnet-lite-pytorch``.

        timm's names are not taken: under the same keys it has networks with another epsilon and another padding.
        """
        return rename(state, self._renames(), SURPLUS)

    def _renames(self) -> tuple[Rename, ...]:
        names = self.block_names()
        parts = {
            "_expand_conv": "expand.conv",
            "_bn0": "expand.norm",
            "_depthwise_conv": "depthwise.conv",
            "_bn1": "depthwise.norm",
            "_project_conv": "project.conv",
            "_bn2": "project.norm",
        }

        def block(match: re.Match[str]) -> str:
            index = int(match[1])
            return f"{names[index]}.{parts[match[2]]}.{match[3]}" if index < len(names) else match[0]

        return (
            (r"_conv_stem\.(.+)", r"stem.conv.\1"),
            (r"_bn0\.(.+)", r"stem.norm.\1"),
            (rf"_blocks\.(\d+)\.({'|'.join(parts)})\.(.+)", block),
        )


def _initialise(module: nn.Module, depth: int) -> None:
    """He initialisation (unit gain for the linear projections); branches beside a shortcut by ``1 / sqrt(depth)``."""
    for part in module.modules():
        if isinstance(part, ConvNorm):
            linear = isinstance(part.activation, nn.Identity)
            nn.init.kaiming_normal_(part.conv.weight, nonlinearity="linear" if linear else "relu")
    if isinstance(module, InvertedResidual) and module.shortcut:
        nn.init.constant_(module.project.norm.weight, depth**-0.5)


VARIANTS = (
    EfficientNetLite(
        "efficientnet_lite0", ("lite0",), (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1), size=(224, 224)
    ),
    EfficientNetLite(
        "efficientnet_lite2", ("lite2",), (16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1), size=(260, 260)
    ),
)
