"""Heads: resolution, what they read, and that each is its published structure."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo
from stagekit.models.counts import macs
from stagekit.models.heads import HEADS, Head, LightHead, PPMHead, PUPHead, create_head
from stagekit.models.registry import create

LAST = BoundaryInfo("stage4", 16, 8)


def settled(head: Head) -> Head:
    """Evaluation mode with BatchNorm statistics that are not the neutral ones."""
    torch.manual_seed(0)
    for module in head.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return head.eval()


def test_ppm_is_pspnet_with_torchs_adaptive_pooling() -> None:
    head = settled(PPMHead(LAST, 5, width=8))
    assert isinstance(head, PPMHead)
    x = torch.randn(2, 16, 7, 9)  # neither side is a multiple of 2, 3 or 6
    pooled = [
        F.interpolate(branch(F.adaptive_avg_pool2d(x, bins)), (7, 9), mode="bilinear", align_corners=False)
        for bins, branch in zip((1, 2, 3, 6), head.branches, strict=True)
    ]
    expected = head.classifier(head.bottleneck(torch.cat([x, *pooled], dim=1)))
    torch.testing.assert_close(head([x]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("convolutions", "scale", "factor"), [(3, 2, 8), (4, 2, 16), (2, 4, 16)])
def test_pup_upsamples_behind_every_convolution(convolutions: int, scale: int, factor: int) -> None:
    head = settled(PUPHead(LAST, 5, convolutions=convolutions, width=8, scale=scale))
    assert isinstance(head, PUPHead)
    x = torch.randn(1, 16, 3, 4)
    assert head([x]).shape == (1, 5, 3 * factor, 4 * factor)
    y = x
    for convolution in head.convolutions:
        y = F.interpolate(convolution(y), scale_factor=float(scale), mode="bilinear", align_corners=False)
    torch.testing.assert_close(head([x]), head.classifier(y))


def test_a_pup_head_with_layer_norm_does_not_see_the_scale_of_a_raw_residual_stream() -> None:
    head = settled(PUPHead(LAST, 5, width=8, layer_norm=True))
    x = torch.randn(1, 16, 3, 4)
    torch.testing.assert_close(head([x]), head([50 * x]), atol=1e-4, rtol=1e-4)


def test_light_head_sums_every_boundary_at_the_finest_resolution() -> None:
    boundaries = [BoundaryInfo("stage2", 6, 4), BoundaryInfo("stage3", 10, 8), BoundaryInfo("stage4", 16, 16)]
    head = settled(LightHead(boundaries, 5, width=8))
    assert isinstance(head, LightHead)
    features = [torch.randn(2, b.channels, *b.grid(40, 56)) for b in boundaries]
    total = sum(
        F.interpolate(lateral(x), (10, 14), mode="bilinear", align_corners=False)
        for lateral, x in zip(head.laterals, features, strict=True)
    )
    assert isinstance(total, Tensor)
    expected = head.classifier(head.mix(total.relu()))
    torch.testing.assert_close(head(features), expected, atol=1e-5, rtol=1e-5)
    for i in range(3):  # every one of them matters
        changed = [x + (k == i) for k, x in enumerate(features)]
        assert not torch.allclose(head(changed), expected, atol=1e-3)


@pytest.mark.parametrize(("classes", "share"), [(2, 0.25), (17, 0.25), (150, 0.25)])
def test_light_head_costs_at_most_a_quarter_of_efficientnet_lite0(classes: int, share: float) -> None:
    with torch.device("meta"):
        backbone = create("efficientnet_lite0")
    read = [b for b in backbone.boundaries if b.name in ("stage2", "stage3", "stage4", "stage5")]
    head = LightHead(read, classes)
    # By hand: 1x1 laterals, one 3x3 and the classifier at the finest grid, 56 x 56.
    laterals = sum(b.channels * 32 * b.grid(224, 224)[0] ** 2 for b in read)
    assert head.macs(224, 224) == laterals + (9 * 32 * 32 + 32 * classes) * 56**2
    assert head.macs(224, 224) <= share * macs(backbone, torch.empty(1, 224, 224, 3, dtype=torch.uint8))


@pytest.mark.parametrize("name", sorted(HEADS))
def test_a_head_by_name_says_what_it_reads(name: str) -> None:
    head = create_head(name, [LAST], 4)
    assert head.reads == ("stage4",)
    assert head.eval()([torch.randn(1, 16, 4, 4)]).shape[:2] == (1, 4)


@pytest.mark.parametrize("name", ["ppm", "pup", "setr-pup"])
def test_a_head_for_one_boundary_refuses_several(name: str) -> None:
    with pytest.raises(UsageError, match="reads one boundary, got stage4, stage5"):
        create_head(name, [LAST, BoundaryInfo("stage5", 16, 8)], 4)


def test_an_unknown_head_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'setr-pup'"):
        create_head("setrpup", [LAST], 4)
    with pytest.raises(UsageError, match="one of light"):
        create_head("x", [LAST], 4)
    with pytest.raises(UsageError, match="at least one boundary"):
        create_head("light", [], 4)
