"""Cached features: the same batches as without a cache, within the memory allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stagekit.data.folder import Folder
from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone
from stagekit.tune.loop import Input
from stagekit.tune.network import create_network
from stagekit.tune.recipe import Recipe
from stagekit.tune.tune import create_source

CPU = torch.device("cpu")
PRIOR = torch.tensor([0.6, 0.3, 0.1])
FLIP = {"augment": {"flip": True}}


def first_batches(backbone: Backbone, recipe: Recipe, folder: Folder, count: int) -> list[tuple[Input, Tensor]]:
    network = create_network(recipe, backbone, 3, PRIOR)
    batches: Iterator[tuple[Input, Tensor]] = create_source(network, recipe, folder, CPU)(0, count)
    return list(batches)


@pytest.mark.parametrize("kind", ["head", "spm"])
def test_without_augmentation_the_cache_gives_the_features_of_the_frames(
    backbone: Backbone, recipe: Callable[..., Recipe], folder: Folder, kind: str
) -> None:
    chosen = recipe(method={"kind": kind})
    network = create_network(chosen, backbone, 3, PRIOR).eval()
    plain = first_batches(backbone, recipe(method={"kind": kind}, train={"cache": "off"}), folder, 3)
    cached = first_batches(backbone, chosen, folder, 3)
    for (frames, labels), (features, labels_again) in zip(plain, cached, strict=True):
        assert isinstance(frames, Tensor)
        for feature, expected in zip(features, network.prefix(frames), strict=True):
            torch.testing.assert_close(feature, expected)
        assert torch.equal(labels, labels_again)


def test_variants_are_drawn_from_the_number_cached(
    backbone: Backbone, recipe: Callable[..., Recipe], folder: Folder
) -> None:
    chosen = recipe(train={"cache": 3, "batch": 8, **FLIP})
    batches = first_batches(backbone, chosen, folder, 30)
    distinct = {features[0][slot].numpy().tobytes() for features, _ in batches for slot in range(8)}
    assert 8 < len(distinct) <= 16  # a flip has two outcomes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"cache": 4000, "cache_megabytes": 1, **FLIP}}, "allow more"),
        ({"method": {"kind": "full"}, "train": {"cache": 2}}, "cannot be cached"),
    ],
)
def test_a_cache_that_cannot_be_is_refused(
    backbone: Backbone, recipe: Callable[..., Recipe], folder: Folder, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        first_batches(backbone, recipe(**changes), folder, 1)


def test_auto_caches_only_what_is_exact(backbone: Backbone, recipe: Callable[..., Recipe], folder: Folder) -> None:
    def cached(**changes: Any) -> bool:
        return not isinstance(first_batches(backbone, recipe(**changes), folder, 1)[0][0], Tensor)

    assert cached()
    assert not cached(train=FLIP)
    assert not cached(method={"kind": "full"})
