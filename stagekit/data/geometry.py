"""How an image of any size becomes a frame of one size, and how labels find their way back.

A frame shows a box of the image in a box of itself:

========== ======================== =========================================
resize     box of the image         box of the frame
========== ======================== =========================================
stretch    all                      all; the aspect ratio changes
letterbox  all                      the largest of the image's aspect ratio, centred; ``fill`` around it
crop       the largest centred one  all
           of the frame's aspect
           ratio
========== ======================== =========================================

Pixel ``i`` of ``n`` has its centre at ``(i + 0.5) / n``: the half-pixel rule, everywhere in this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from stagekit.data.images import Pixels
from stagekit.data.palette import IGNORE
from stagekit.data.rescale import rescale, rescale_labels, round_ratio
from stagekit.errors import ImageError, UsageError

Resize = Literal["stretch", "letterbox", "crop"]

_CHUNK = 1 << 18  # scores at image size held at one time while labels are taken: 1 MiB stays in the cache


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of whole pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of (H, W, ...) cut to the rectangle."""
        return array[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, slots=True)
class Geometry:
    """The rule from image to frame.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        resize: ``stretch``, ``letterbox`` or ``crop``.
        fill: grey level (0 to 255) around a letterboxed image.

    Raises:
        UsageError: for anything else.
    """

    height: int
    width: int
    resize: Resize = "stretch"
    fill: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (("height", 1, 1 << 16), ("width", 1, 1 << 16), ("fill", 0, 255)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise UsageError(
                    f"{name} is {value!r}, expected a whole number from {low} to {high}",
                    where="geometry",
                    remedy=f"correct {name}",
                )
        if self.resize not in get_args(Resize):
            raise UsageError(
                f"resize is {self.resize!r}, expected one of {', '.join(get_args(Resize))}",
                where="geometry",
                remedy="stretch changes the aspect ratio, letterbox pads, crop cuts",
            )

    def key(self) -> str:
        """Names the function from images to frames; equal keys mean equal frames."""
        fill = f"-{self.fill}" if self.resize == "letterbox" else ""
        return f"{self.height}x{self.width}-{self.resize}{fill}"

    def to_dict(self) -> dict[str, str | int]:
        """For a manifest."""
        return asdict(self)

    @classmethod
    def from_dict(cls, stated: Mapping[str, Any]) -> Geometry:
        """From a manifest; ``resize`` and ``fill`` may be left out.

        Raises:
            UsageError: when a key is missing or unknown, or a value is out of range.
        """
        known = ("height", "width", "resize", "fill")
        wrong = sorted(stated.keys() - set(known)) + [key for key in known[:2] if key not in stated]
        if wrong:
            raise UsageError(
                f"unknown or missing keys: {', '.join(wrong)}",
                where="geometry",
                remedy=f"the keys are {', '.join(known)}",
            )
        return cls(**stated)

    def place(self, height: int, width: int) -> Placement:
        """Where an image of this size comes to lie."""
        image, frame = Box(0, 0, height, width), Box(0, 0, self.height, self.width)
        if self.resize == "letterbox":
            frame = _centred(frame, height, width)
        elif self.resize == "crop":
            image = _centred(image, self.height, self.width)
        return Placement(height, width, self.height, self.width, image, frame)

    def apply(self, image: Pixels) -> tuple[Pixels, Placement]:
        """Turn an image uint8 (H, W, 3) into a frame uint8 (height, width, 3), and say how to get back.

        Where sizes are equal no pixel is touched, and the frame may be the image itself.

        Raises:
            ImageError: when the image is not uint8 (H, W, 3) with at least one pixel.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
            raise ImageError(
                f"expected an image uint8 (height, width, 3), found {image.dtype} {image.shape}",
                remedy="read it with read_image, or convert it to RGB bytes",
            )
        placement = self.place(image.shape[0], image.shape[1])
        source, target = placement.image_box, placement.frame_box
        shown = rescale(source.of(image), target.height, target.width)
        if shown.shape[:2] == (self.height, self.width):
            return np.ascontiguousarray(shown), placement
        frame = np.full((self.height, self.width, 3), self.fill, dtype=np.uint8)
        target.of(frame)[:] = shown
        return frame, placement

    def apply_to_labels(self, labels: Pixels) -> Pixels:
        """Labels uint8 (H, W) as the frame shows them (height, width): nearest, 255 around a letterbox."""
        placement = self.place(*labels.shape)
        return _paste(placement.image_box.of(labels), placement.frame_box, self.height, self.width)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one image lies in its frame: the way back from a network's output to the image.

    Args:
        image_height, image_width: of the image.
        frame_height, frame_width: of the frame.
        image_box: the part of the image that the frame shows.
        frame_box: the part of the frame that shows it.
    """

    image_height: int
    image_width: int
    frame_height: int
    frame_width: int
    image_box: Box
    frame_box: Box

    def labels_to_image(self, labels: Pixels) -> Pixels:
        """Labels of the frame uint8 (height, width) in the image's size (H, W): nearest.

        Pixels that a crop cut off get 255: the network has not seen them.
        """
        self._check_frame(labels.shape)
        return _paste(self.frame_box.of(labels), self.image_box, self.image_height, self.image_width)

    def logits_to_image(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (classes, h, w) over the frame, at any resolution, as float32 (classes, H, W): bilinear.

        Cells centred in the border of a letterbox never contribute. Pixels that a crop cut off get 0 for every
        class.
        """
        return self._sample(logits, 0, self.image_height)

    def logits_to_labels(self, logits: NDArray[np.float32]) -> Pixels:
        """The arg max of ``logits_to_image`` as uint8 (H, W), never holding all of it; 255 where a crop cut."""
        rows = max(1, _CHUNK // (logits.shape[0] * self.image_width))
        strips = [
            self._sample(logits, top, min(top + rows, self.image_height)).argmax(axis=0).astype(np.uint8)
            for top in range(0, self.image_height, rows)
        ]
        seen = self.image_box.of(np.concatenate(strips))
        return _paste(seen, self.image_box, self.image_height, self.image_width)

    def _sample(self, logits: NDArray[np.float32], top: int, bottom: int) -> NDArray[np.float32]:
        """Rows ``top`` to ``bottom`` of ``logits_to_image``."""
        _, rows, columns = logits.shape
        box, frame = self.image_box, self.frame_box
        low, high, part = _taps(frame.top, frame.height, self.frame_height, rows, box.height)
        inside = slice(max(top - box.top, 0), max(bottom - box.top, 0))
        low, high, part = low[inside], high[inside], part[inside, None]
        lines = logits[:, low] + (logits[:, high] - logits[:, low]) * part
        low, high, part = _taps(frame.left, frame.width, self.frame_width, columns, box.width)
        scores = (lines[:, :, low] + (lines[:, :, high] - lines[:, :, low]) * part).astype(np.float32, copy=False)
        if scores.shape[1:] == (bottom - top, self.image_width):
            return scores
        whole = np.zeros((logits.shape[0], bottom - top, self.image_width), dtype=np.float32)
        start = max(box.top - top, 0)
        whole[:, start : start + scores.shape[1], box.left : box.left + box.width] = scores
        return whole

    def _check_frame(self, shape: tuple[int, ...]) -> None:
        if shape != (self.frame_height, self.frame_width):
            raise ImageError(
                f"expected labels of the frame ({self.frame_height}, {self.frame_width}), found {shape}",
                remedy="pass what the network gave for this frame",
            )


def _centred(outer: Box, height: int, width: int) -> Box:
    """The largest box of aspect ratio ``height : width`` in the middle of ``outer``, at least one pixel a side."""
    if outer.height * width <= outer.width * height:
        size = outer.height, max(1, min(outer.width, round_ratio(outer.height * width, height)))
    else:
        size = max(1, min(outer.height, round_ratio(outer.width * height, width))), outer.width
    return Box((outer.height - size[0]) // 2, (outer.width - size[1]) // 2, *size)


def _paste(labels: Pixels, box: Box, height: int, width: int) -> Pixels:
    """Labels resampled into ``box`` of an otherwise unlabelled (height, width): nearest."""
    whole = np.full((height, width), IGNORE, dtype=np.uint8)
    box.of(whole)[:] = rescale_labels(labels, box.height, box.width)
    return whole


def _taps(
    start: int, length: int, frame: int, cells: int, pixels: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """Along one axis: the two cells between which each image pixel's centre lies, and the second one's share.

    ``cells`` span the whole frame of ``frame`` pixels; the image's ``pixels`` span ``start .. start + length``
    of it. Only cells centred in that span are used, so a border cannot bleed in; a span that holds no centre
    takes the cell it lies in.
    """
    centre = (start + (np.arange(pixels) + 0.5) * (length / pixels)) * (cells / frame) - 0.5
    first = int(np.ceil(start * cells / frame - 0.5))
    last = int(np.ceil((start + length) * cells / frame - 0.5)) - 1
    if first > last:
        first = last = (2 * start + length) * cells // (2 * frame)
    centre = np.clip(centre, max(first, 0), min(last, cells - 1))
    low = np.floor(centre).astype(np.intp)
    return low, np.minimum(low + 1, min(last, cells - 1)), (centre - low).astype(np.float32)
