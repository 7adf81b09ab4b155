"""A split's confusion, whoever predicts: a network in torch or a deployment on any target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from stagekit.bundle.manifest import Metric
from stagekit.data.dataset import Dataset
from stagekit.data.images import Pixels
from stagekit.data.metrics import Confusion

Predict = Callable[[Pixels], Pixels]
"""An image uint8 (H, W, 3) to labels uint8 (H, W) in its own size."""


def score(
    dataset: Dataset, split: str, predict: Predict, progress: Callable[[int, int], object] = lambda done, total: None
) -> Confusion:
    """Predicts every image of a split and counts pixels in the image's own size.

    A session is scored by the same code: ``score(dataset, "test", lambda image: session.run(image)["water"])``.

    Args:
        progress: called with (images done, images in all).
    """
    confusion = Confusion(len(dataset.classes.names))
    stems = dataset.stems(split)
    for done, stem in enumerate(stems, start=1):
        sample = dataset.read(stem)
        confusion.update(predict(sample.image), sample.mask)
        progress(done, len(stems))
    return confusion


def metrics(confusion: Confusion, dataset: Dataset, split: str, data: str) -> tuple[Metric, ...]:
    """mIoU, mean Dice and pixel accuracy for a manifest, 0 to 1 each."""
    images = len(dataset.stems(split))

    def metric(name: str, value: float, per_class: Mapping[str, float | None] | None = None) -> Metric:
        return Metric(name=name, value=value, data=data, split=split, images=images, per_class=dict(per_class or {}))

    names = dataset.classes.names
    iou = {n: None if math.isnan(v) else float(v) for n, v in zip(names, confusion.iou(), strict=True)}
    dice = {n: None if math.isnan(v) else float(v) for n, v in zip(names, confusion.dice(), strict=True)}
    known = [v for v in dice.values() if v is not None]
    return (
        metric("miou", confusion.miou(), iou),
        metric("dice", sum(known) / max(len(known), 1), dice),
        metric("accuracy", confusion.accuracy()),
    )
