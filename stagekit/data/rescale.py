"""Resampling to another size, and the size at which an image just covers a frame."""

from __future__ import annotations

import numpy as np
from PIL import Image

from stagekit.data.images import Pixels


def rescale(image: Pixels, height: int, width: int) -> Pixels:
    """An image uint8 (H, W, 3) at another size; the image itself where it has that size.

    Pillow's ``BILINEAR``, whose triangle widens with the reduction, so that shrinking averages and does not alias.
    """
    if image.shape[:2] == (height, width):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def rescale_labels(labels: Pixels, height: int, width: int) -> Pixels:
    """Labels uint8 (H, W) at another size: at each pixel's centre the nearest."""
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    resampled: Pixels = labels[rows[:, None], columns]
    return resampled


def cover(image: tuple[int, int], frame: tuple[int, int]) -> tuple[int, int]:
    """The smallest (height, width) of an image's aspect ratio that covers a frame; of a square one, the short side's.

    MMSegmentation's ``Resize(keep_ratio=True)`` with nothing to bound the long side.
    """
    (rows, columns), (height, width) = image, frame
    if height * columns >= width * rows:
        return height, max(width, round_ratio(columns * height, rows))
    return max(height, round_ratio(rows * width, columns)), width


def round_ratio(numerator: int, denominator: int) -> int:
    """Round to nearest, half up, in integers: the same on every machine."""
    return (2 * numerator + denominator) // (2 * denominator)
