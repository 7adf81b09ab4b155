"""ResNet-50 and ResNet-101 in the V1c form of MMSegmentation.

V1c (He et al., "Bag of Tricks", arXiv 1812.01187) has a deep stem of three 3x3 convolutions and keeps the stride
of a bottleneck in its 3x3 convolution. Output strides 16 and 8 replace the strides of the last stages by dilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

from torch import Tensor, nn

from stagekit.errors import WeightsError
from stagekit.models.backbone import BoundaryInfo, Preprocessing, Unit
from stagekit.models.weights import Rename, rename

IMAGENET = Preprocessing(mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
EXPANSION = 4

# Output stride -> (strides, dilations) of the four stages, as in mmseg's configurations.
LAYOUTS = {
    8: ((1, 2, 1, 1), (1, 1, 2, 4)),
    16: ((1, 2, 2, 1), (1, 1, 1, 2)),
    32: ((1, 2, 2, 2), (1, 1, 1, 1)),
}

# mmseg's stem has our names already; timm calls the same three convolutions conv1 and bn1.
RENAMES: tuple[Rename, ...] = (
    (r"layer([1-4])\.(\d+)\.(.+)", lambda m: f"stage{m[1]}_{int(m[2]) + 1}.{m[3]}"),
    (r"conv1\.([01346])\.(.+)", r"stem.\1.\2"),
    (r"bn1\.(.+)", r"stem.7.\1"),
)
# Classifiers and the heads of a whole mmseg model.
SURPLUS = (r"fc\..+", r"head\..+", r"decode_head\..+", r"auxiliary_head\..+")


class Bottleneck(nn.Module):
    """1x1, 3x3 (with the stride and dilation), 1x1, each with BatchNorm; added to the shortcut, then ReLU."""

    def __init__(self, inputs: int, width: int, stride: int, dilation: int) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        result: Tensor = self.relu(y + self.downsample(x))
        return result


def deep_stem() -> nn.Sequential:
    """Three 3x3 convolutions 3-32-32-64 and a max pool: the image at a quarter of its size."""
    layers: list[nn.Module] = []
    for inputs, outputs, stride in ((3, 32, 2), (32, 32, 1), (32, 64, 1)):
        layers += [
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        ]
    return nn.Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))


@dataclass(frozen=True, slots=True)
class ResNet:
    """A declared ResNet.

    Args:
        name: as registered.
        depths: residual units in each of the four stages.
        cuts: boundaries inside stages that are made unless others are asked for.
        size: default frame (height, width) in pixels.
    """

    name: str
    depths: tuple[int, int, int, int]
    cuts: tuple[str, ...] = ()
    size: tuple[int, int] = (512, 512)

    revision: ClassVar[int] = 1
    aliases: ClassVar[tuple[str, ...]] = ()
    preprocessing: ClassVar[Preprocessing] = IMAGENET
    output_strides: ClassVar[tuple[int, ...]] = tuple(LAYOUTS)

    def units(self, output_stride: int) -> list[Unit]:
        """The stem and all residual units, randomly initialised.

        The first unit of a dilated stage takes half the stage's dilation (mmseg's ``contract_dilation``): its input
        still lies on the finer grid, so every second pixel is what the strided network would compute.
        """
        units = [Unit("stem", deep_stem(), BoundaryInfo("stem", channels=64, stride=4))]
        channels, total_stride = 64, 4
        strides, dilations = LAYOUTS[output_stride]
        for stage, depth in enumerate(self.depths, start=1):
            stride, dilation = strides[stage - 1], dilations[stage - 1]
            width = 64 * 2 ** (stage - 1)
            total_stride *= stride
            for number in range(1, depth + 1):
                first = number == 1
                module = Bottleneck(
                    channels, width, stride if first else 1, max(1, dilation // 2) if first else dilation
                )
                channels = width * EXPANSION
                last = number == depth
                boundary = BoundaryInfo(f"stage{stage}" if last else f"stage{stage}.{number}", channels, total_stride)
                units.append(Unit(f"stage{stage}_{number}", module, boundary, optional=not last))
        for unit in units:
            _initialise(unit.module, sum(self.depths))
        return units

    def fitted(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> ResNet:
        """Itself: no weight's shape is left to the file."""
        return self

    def translate(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> dict[str, Tensor]:
        """Weights under our names, from mmseg's V1c or timm's deep-stem names.

        Raises:
            WeightsError: the file holds another kind of ResNet.
        """
        if "conv1.weight" in state:
            kernel = "x".join(map(str, state["conv1.weight"].shape[2:]))
            raise WeightsError(
                f"a ResNet with a single {kernel} stem convolution (as torchvision's and most of timm's), not V1c",
                where=where,
                remedy=f"give V1c weights, such as mmseg's {self.name}_v1c: their stem is three 3x3 convolutions",
            )
        if any(".downsample.2." in key for key in state):
            raise WeightsError(
                "a ResNet-D (it pools before the shortcut's convolution), not V1c",
                where=where,
                remedy=f"give V1c weights, such as mmseg's {self.name}_v1c",
            )
        return rename(state, RENAMES, SURPLUS)


def _initialise(module: nn.Module, depth: int) -> None:
    """He initialisation; branches are scaled by ``1 / sqrt(depth)``.

    With running statistics of 0 and 1, BatchNorm normalises nothing in a network that was never trained: unscaled
    branches would double the variance in every unit.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
    if isinstance(module, Bottleneck):
        nn.init.constant_(module.bn3.weight, depth**-0.5)


VARIANTS = (
    ResNet("resnet50", (3, 4, 6, 3)),
    ResNet("resnet101", (3, 4, 23, 3), cuts=("stage3.7", "stage3.12", "stage3.14")),
)
