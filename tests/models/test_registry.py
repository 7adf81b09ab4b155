"""Backbones by name."""

from __future__ import annotations

import pytest
import torch

from stagekit.errors import UsageError
from stagekit.models.registry import build, create, find, names
from stagekit.models.vit import ViT

TINY = ViT("tiny", width=16, depth=2, heads=4, patch=4, grid=5, cuts=("unit1",), size=(20, 20))


def test_the_names_are_those_documented() -> None:
    assert names() == [
        "resnet50", "resnet101", "vit_l16", "vit_b16", "vit_s14", "efficientnet_lite0", "efficientnet_lite2",
    ]  # fmt: skip


@pytest.mark.parametrize(("typed", "meant"), [("resnet51", "resnet50"), ("lite1", "lite0"), ("vit-l16", "vit_l16")])
def test_an_unknown_name_is_answered_with_the_nearest(typed: str, meant: str) -> None:
    with pytest.raises(UsageError, match=meant):
        create(typed)


def test_an_alias_is_the_same_architecture() -> None:
    assert find("lite0") is find("efficientnet_lite0")


@pytest.mark.parametrize("name", names())
def test_every_boundary_describes_its_feature(name: str) -> None:
    with torch.device("meta"):
        backbone = create(name)
        features = backbone(torch.empty(2, *backbone.size, 3, dtype=torch.uint8))

    for feature, boundary in zip(features, backbone.boundaries, strict=True):
        height, width = boundary.grid(*backbone.size)
        if boundary.kind == "map":
            assert feature.shape == (2, boundary.channels, height, width)
        else:
            assert feature.shape == (2, boundary.prefix + height * width, boundary.channels)


@pytest.mark.parametrize("name", ["resnet50", "vit_s14", "lite0"])
def test_random_features_stay_in_a_range_that_float16_holds(name: str) -> None:
    side = 112
    backbone = create(name, size=(side, side))
    frames = torch.randint(0, 256, (1, side, side, 3), dtype=torch.uint8)

    for feature in backbone(frames):
        assert 0.05 < feature.std() < 20
        assert feature.abs().max() < 1000


def test_a_backbone_comes_frozen_and_in_evaluation_mode() -> None:
    backbone = build(TINY)

    assert not backbone.training
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_seed_gives_the_same_weights_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)

    first, again, other = build(TINY, seed=1), build(TINY, seed=1), build(TINY, seed=2)

    assert torch.equal(torch.rand(3), undisturbed)
    frames = torch.zeros(1, 20, 20, 3, dtype=torch.uint8)
    assert torch.equal(first(frames)[-1], again(frames)[-1])
    assert not torch.equal(first(frames)[-1], other(frames)[-1])


def test_an_output_stride_that_is_not_offered_names_those_that_are() -> None:
    with pytest.raises(UsageError, match="8 or 16 or 32"):
        create("resnet50", output_stride=4)


def test_a_frame_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="0x224"), torch.device("meta"):
        create("lite0", size=(0, 224))
