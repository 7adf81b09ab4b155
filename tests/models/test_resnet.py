"""ResNet V1c: published counts, mmseg's layout, dilation against the strided network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from stagekit.errors import UsageError, WeightsError
from stagekit.models.backbone import Backbone
from stagekit.models.registry import build, create
from stagekit.models.resnet import ResNet

TINY = ResNet("tiny", (1, 2, 2, 2))


def on_meta(name: str, output_stride: int | None = None) -> Backbone:
    with torch.device("meta"):
        return create(name, output_stride=output_stride)


def frames(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("name", "millions"), [("resnet50", 23.47), ("resnet101", 42.41)])
def test_convolution_weights_count_as_published(name: str, millions: float) -> None:
    convolutions = [module for module in on_meta(name).modules() if isinstance(module, nn.Conv2d)]

    count = sum(module.weight.numel() for module in convolutions)

    print(f"{name}: {count} convolution weights")
    assert round(count / 1e6, 2) == millions
    assert all(module.bias is None for module in convolutions)


@pytest.mark.parametrize(("name", "giga"), [("resnet50", 99), ("resnet101", 177)])
def test_the_stages_cost_the_multiply_accumulates_on_record(name: str, giga: int) -> None:
    """512x512 at output stride 8, the stem left out."""
    backbone = on_meta(name, output_stride=8)
    macs = 0

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d)
        macs += output.numel() * module.weight[0].numel()

    for segment in list(backbone.segments)[1:]:
        for module in segment.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(count)
    backbone(torch.empty(1, 512, 512, 3, dtype=torch.uint8, device="meta"))

    print(f"{name}: {macs / 1e9:.1f} G multiply-accumulates")
    assert round(macs / 1e9) == giga


@pytest.mark.parametrize(
    ("output_stride", "expected"),
    [
        # (stride, dilation) of the 3x3 in the first and the second unit of stages 1 to 4
        (8, [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (1, 2)), ((1, 2), (1, 4))]),
        (16, [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (1, 2))]),
        (32, [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((2, 1), (1, 1)), ((2, 1), (1, 1))]),
    ],
)
def test_strides_and_dilations_are_those_of_mmseg(
    output_stride: int, expected: list[tuple[tuple[int, int], tuple[int, int]]]
) -> None:
    parameters = dict(on_meta("resnet50", output_stride=output_stride).named_modules())
    convolutions = {name.split(".", 2)[2]: module for name, module in parameters.items() if name.endswith("conv2")}

    found = []
    for stage in range(1, 5):
        first, second = convolutions[f"stage{stage}_1.conv2"], convolutions[f"stage{stage}_2.conv2"]
        assert isinstance(first, nn.Conv2d)
        assert isinstance(second, nn.Conv2d)
        found.append(((first.stride[0], first.dilation[0]), (second.stride[0], second.dilation[0])))

    assert found == expected


@pytest.mark.parametrize(("output_stride", "step"), [(8, 4), (16, 2)])
def test_a_dilated_network_holds_the_strided_one_at_every_nth_cell(output_stride: int, step: int) -> None:
    image = frames(96, 64)

    strided = build(TINY, output_stride=32)(image)[-1]
    dilated = build(TINY, output_stride=output_stride)(image)[-1]

    assert dilated.shape[-2:] == (96 // output_stride, 64 // output_stride)
    torch.testing.assert_close(dilated[..., ::step, ::step], strided, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_boundaries_describe_the_features_of_odd_frames(output_stride: int) -> None:
    backbone = build(TINY, output_stride=output_stride)

    for feature, boundary in zip(backbone(frames(75, 101)), backbone.boundaries, strict=True):
        assert feature.shape == (1, boundary.channels, *boundary.grid(75, 101))


def test_resnet101_is_cut_inside_stage_3_and_resnet50_is_not() -> None:
    assert [boundary.name for boundary in on_meta("resnet50").boundaries] == [
        "stem", "stage1", "stage2", "stage3", "stage4",
    ]  # fmt: skip
    assert [boundary.name for boundary in on_meta("resnet101").boundaries] == [
        "stem", "stage1", "stage2", "stage3.7", "stage3.12", "stage3.14", "stage3", "stage4",
    ]  # fmt: skip


def test_a_cut_changes_no_feature() -> None:
    image = frames(64, 64)

    uncut = build(TINY, cuts=())(image)
    cut = build(TINY, cuts=("stage2.1", "stage4.1"))(image)

    assert len(cut) == len(uncut) + 2
    assert torch.equal(cut[-1], uncut[-1])


def test_an_unknown_cut_names_the_ones_near_it() -> None:
    with pytest.raises(UsageError, match=r"stage2\.1"):
        build(TINY, cuts=("stage2.7",))


def test_a_stem_of_one_7x7_convolution_is_refused_as_not_v1c(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("weights") / "torchvision.pth"
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7), "bn1.weight": torch.zeros(64)}, path)

    with pytest.raises(WeightsError, match="7x7 stem") as caught:
        create("resnet50", weights=path)

    assert str(path) in str(caught.value)
    assert "resnet50_v1c" in str(caught.value)


def test_timm_names_of_a_deep_stem_are_taken() -> None:
    theirs = ["conv1.0.weight", "conv1.1.bias", "conv1.3.weight", "conv1.4.running_var", "conv1.6.weight", "bn1.weight"]
    theirs += ["layer3.5.conv2.weight", "layer1.0.downsample.1.bias", "fc.weight", "bn1.num_batches_tracked"]

    ours = TINY.translate({name: torch.zeros(1) for name in theirs}, "timm.pth")

    assert list(ours) == [
        "stem.0.weight", "stem.1.bias", "stem.3.weight", "stem.4.running_var", "stem.6.weight", "stem.7.weight",
        "stage3_6.conv2.weight", "stage1_1.downsample.1.bias",
    ]  # fmt: skip


def test_a_resnet_d_is_refused() -> None:
    with pytest.raises(WeightsError, match="ResNet-D"):
        TINY.translate({"layer1.0.downsample.2.weight": torch.zeros(1)}, "d.pth")
