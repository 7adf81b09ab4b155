"""The frozen prefix, cached: features before the first prompt never change, so they are computed once.

Under random augmentation the frames do change; then a fixed number of augmented variants of each image stands for
the distribution, and their features are cached.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from stagekit.errors import UsageError
from stagekit.models.prompted import PromptedNetwork
from stagekit.tune.augment import Augment
from stagekit.tune.batches import Draw, Images, Order, generator
from stagekit.tune.precision import autocast, precision_of
from stagekit.tune.sections import TrainSection


class CachedFeatures:
    """Batches of prefix features and labels, in the order of :class:`stagekit.tune.batches.Order`.

    Args:
        features: one tensor (images * variants, ...) for each prefix boundary; an image's variants are neighbours.
        labels: uint8 (images * variants, height, width).
        variants: of each image.
        order: of the images.
        seed: draws the variant.
    """

    def __init__(self, features: list[Tensor], labels: Tensor, variants: int, order: Order, seed: int) -> None:
        self.features, self.labels, self.variants = features, labels, variants
        self.order, self.seed = order, seed

    def __getitem__(self, index: int) -> tuple[list[Tensor], Tensor]:
        rows = torch.tensor(
            [
                position * self.variants + int(generator(self.seed, Draw.VARIANT, number).integers(self.variants))
                for number, position in self.order.places(index)
            ]
        )
        return [feature[rows] for feature in self.features], self.labels[rows]


def variants_to_cache(train: TrainSection, frozen: bool) -> int:
    """How many variants of each image the recipe asks to cache; 0 for no cache.

    Raises:
        UsageError: a cache is asked for while the backbone learns.
    """
    if train.cache == "off" or (train.cache == "auto" and (train.augment.random or not frozen)):
        return 0
    if not frozen:
        raise UsageError(
            "features of a backbone that learns change with every step and cannot be cached",
            where="train.cache",
            remedy='set cache = "off"',
        )
    return 1 if train.cache == "auto" else int(train.cache)


@torch.no_grad()
def cache_features(
    network: PromptedNetwork,
    images: Images,
    augment: Augment,
    train: TrainSection,
    variants: int,
    device: torch.device,
    progress: Callable[[int, int], object],
) -> CachedFeatures:
    """Runs the prefix over ``variants`` draws of every image.

    Args:
        progress: called with (images done, images in all).

    Raises:
        UsageError: they would take more memory than ``train.cache_megabytes``.
    """
    precision = precision_of(train, device)
    count = len(images) * variants
    features: list[Tensor] = []
    labels = torch.empty(0)
    for position in range(len(images)):
        image, mask = images[position]
        draws = range(position * variants, (position + 1) * variants)
        drawn = [augment(image, mask, generator(train.seed, Draw.CACHE, number)) for number in draws]
        frames = torch.stack([torch.from_numpy(frame.copy()) for frame, _ in drawn]).to(device)
        with autocast(train, device):
            prefix = network.prefix(frames)
        if position == 0:
            _check_memory(prefix, count, precision, train)
            features = [
                torch.empty((count, *p.shape[1:]), dtype=precision).to(
                    memory_format=torch.channels_last if p.dim() == 4 else torch.contiguous_format
                )
                for p in prefix
            ]
            labels = torch.empty((count, *augment.size), dtype=torch.uint8)
        rows = slice(draws.start, draws.stop)
        for store, value in zip(features, prefix, strict=True):
            store[rows] = value.to("cpu", precision)
        labels[rows] = torch.stack([torch.from_numpy(mask.copy()) for _, mask in drawn])
        progress(position + 1, len(images))
    return CachedFeatures(features, labels, variants, Order(len(images), train.batch, train.seed), train.seed)


def _check_memory(prefix: tuple[Tensor, ...], count: int, precision: torch.dtype, train: TrainSection) -> None:
    needed = count * sum(feature[0].numel() * precision.itemsize for feature in prefix)
    if needed > train.cache_megabytes << 20:
        raise UsageError(
            f"cached features would take {needed >> 20} MiB, more than the {train.cache_megabytes} MiB allowed",
            where="train.cache_megabytes",
            remedy='allow more, cache fewer variants, or set cache = "off"',
        )
