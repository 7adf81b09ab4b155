"""Random changes of a frame and its labels, on uint8 arrays.

All geometry is one affine map, so that pixels are resampled once. OpenCV warps; labels are taken from the nearest
pixel. What lies outside the image is filled with the mean colour, which normalises to 0, and labelled ``IGNORE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stagekit.data.images import Pixels
from stagekit.data.palette import IGNORE
from stagekit.tune.sections import AugmentSection

Affine = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Augment:
    """A distribution over changes.

    Args:
        options: their ranges.
        size: frame (height, width) in pixels.
        fill: colour outside the image.
    """

    options: AugmentSection
    size: tuple[int, int]
    fill: tuple[int, int, int]

    def __call__(self, image: Pixels, labels: Pixels, rng: np.random.Generator) -> tuple[Pixels, Pixels]:
        """A frame uint8 (height, width, 3) and its labels uint8 (height, width) drawn from an image of any size."""
        height, width = self.size
        matrix = self._draw_affine(image.shape[0], image.shape[1], rng)
        if not np.array_equal(matrix, np.eye(3)) or image.shape[:2] != self.size:
            frame = (width, height)
            image = _bytes(cv2.warpAffine(image, matrix[:2], frame, flags=cv2.INTER_LINEAR, borderValue=self.fill))
            labels = _bytes(cv2.warpAffine(labels, matrix[:2], frame, flags=cv2.INTER_NEAREST, borderValue=IGNORE))
        if self.options.brightness:
            gain = 1 + rng.uniform(-self.options.brightness, self.options.brightness)
            table = np.clip(np.rint(np.arange(256) * gain), 0, 255).astype(np.uint8)
            image = table[image]
        return image, labels

    def _draw_affine(self, rows: int, columns: int, rng: np.random.Generator) -> Affine:
        """(3, 3): pixel coordinates (x, y, 1) of the image to those of the frame.

        Every draw is made whatever the options, so that switching one on leaves the others' draws alone.
        """
        options, (height, width) = self.options, self.size
        mirrored, flipped = rng.random(2) < 0.5
        angle = rng.uniform(-1, 1) * options.rotate
        low, high = options.scale
        scale = float(low * (high / low) ** rng.random())
        where = rng.random(2)
        if not (options.flip or options.flip_vertical or options.crop or angle or scale != 1):
            return np.eye(3)
        right = -1.0 if mirrored and options.flip else 1.0
        down = -1.0 if flipped and options.flip_vertical else 1.0
        centre = ((columns - 1) / 2, (rows - 1) / 2)
        if options.crop:
            # The window's centre, anywhere that keeps it inside the image where the image is large enough.
            spare = (columns * scale - width) / scale, (rows * scale - height) / scale
            centre = (
                centre[0] + (where[0] - 0.5) * max(spare[0], 0),
                centre[1] + (where[1] - 0.5) * max(spare[1], 0),
            )
            if angle == 0 and scale == 1:  # whole pixels: a window is then a copy, not a resampling
                centre = (_aligned(centre[0], width), _aligned(centre[1], height))
        cosine, sine = np.cos(angle) * scale, np.sin(angle) * scale
        turn = np.array([[right * cosine, -right * sine], [down * sine, down * cosine]])
        matrix = np.eye(3)
        matrix[:2, :2] = turn
        matrix[:2, 2] = np.array([(width - 1) / 2, (height - 1) / 2]) - turn @ np.array(centre)
        return matrix


def _bytes(array: NDArray[Any]) -> Pixels:
    """The same array, whose type OpenCV leaves open."""
    return array.astype(np.uint8, copy=False)


def _aligned(centre: float, size: int) -> float:
    """The nearest centre of a window of ``size`` pixels that begins on a pixel."""
    return float(np.floor(centre - (size - 1) / 2 + 0.5) + (size - 1) / 2)
