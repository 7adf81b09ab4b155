"""Labels of images of any size by a window that moves over them, whoever computes what is in the window."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
from numpy.typing import NDArray

from stagekit.data.geometry import Geometry
from stagekit.data.images import Pixels
from stagekit.data.palette import Color
from stagekit.data.rescale import cover, rescale

Logits = Callable[[Pixels], NDArray[np.float32]]
"""Frames uint8 (n, height, width, 3) to logits float32 (n, classes, height, width)."""
WINDOWS = 8
"""Windows that run as one batch."""


def sliding_window(
    logits: Logits, size: tuple[int, int], stride: tuple[int, int], *, covers: bool = False, fill: Color = (0, 0, 0)
) -> Callable[[Pixels], Pixels]:
    """A predictor: an image uint8 (H, W, 3) to labels uint8 (H, W), the arg max of logits averaged over windows.

    As MMSegmentation's ``slide``: the last window of a row or column is moved back so that it ends at the border, and
    logits are brought to the image's own size before the arg max. A deployment compiled for logits serves as well as
    a network: ``lambda frames: np.stack([session.run(frame)["water"] for frame in frames])``.

    Args:
        logits: of a batch of windows.
        size: (height, width) of a window.
        stride: (vertical, horizontal) steps in pixels.
        covers: whether an image is first scaled until it just covers a window; otherwise it keeps its own resolution.
        fill: colour at the right and the bottom of an image smaller than a window.
    """
    height, width = size

    def predict(image: Pixels) -> Pixels:
        seen = rescale(image, *cover((image.shape[0], image.shape[1]), size)) if covers else image
        rows, columns = seen.shape[:2]
        padded = np.empty((max(rows, height), max(columns, width), 3), dtype=np.uint8)
        padded[:] = fill
        padded[:rows, :columns] = seen
        tops = window_starts(padded.shape[0], height, stride[0])
        corners = list(product(tops, window_starts(padded.shape[1], width, stride[1])))
        total: NDArray[np.float32] | None = None
        visits = np.zeros(padded.shape[:2], dtype=np.float32)
        for first in range(0, len(corners), WINDOWS):
            some = corners[first : first + WINDOWS]
            found = logits(np.stack([padded[top : top + height, left : left + width] for top, left in some]))
            if total is None:
                total = np.zeros((found.shape[1], *padded.shape[:2]), dtype=np.float32)
            for (top, left), window in zip(some, found, strict=True):
                total[:, top : top + height, left : left + width] += window
                visits[top : top + height, left : left + width] += 1
        assert total is not None  # there is always a window
        total /= visits
        return Geometry(rows, columns).place(*image.shape[:2]).logits_to_labels(total[:, :rows, :columns])

    return predict


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side of at least ``window`` pixels: every ``stride``, the last at the end."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(index * stride, length - window) for index in range(count)]
