"""Pictures of results: labels over the image, a legend, images side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from stagekit.data.images import Pixels
from stagekit.data.palette import IGNORE, VOID, check_palette
from stagekit.errors import ImageError

_PAPER = (255, 255, 255)
_INK = (32, 32, 32)


def overlay(image: Pixels, labels: Pixels, palette: Sequence[Sequence[int]], alpha: float = 0.5) -> Pixels:
    """The image with each class tinted in its colour and outlined in it, one pixel thick.

    Args:
        image: uint8 (height, width, 3) RGB.
        labels: uint8 (height, width). Pixels of label 255, or beyond the palette, keep the image's colour.
        palette: one colour a class.
        alpha: share of the class colour inside a region, 0 to 1; outlines are always opaque.

    Raises:
        ImageError: when image and labels differ in size.
    """
    if image.shape[:2] != labels.shape:
        raise ImageError(
            f"labels of {labels.shape} do not lie over an image of {image.shape[:2]}",
            remedy="bring the labels to the image's size: Placement.labels_to_image",
        )
    colors = check_palette(palette)
    shown = labels < len(colors)
    painted = paint(labels, colors).astype(np.float32)
    strength = np.where(contours(labels), np.float32(1), np.float32(alpha)) * shown
    mixed = image + strength[..., None] * (painted - image)
    rounded: Pixels = np.rint(mixed).astype(np.uint8)
    return rounded


def paint(labels: Pixels, palette: Sequence[Sequence[int]]) -> Pixels:
    """Labels (height, width) as colours (height, width, 3); labels without a class are ``VOID``."""
    table = np.full((256, 3), VOID, dtype=np.uint8)
    table[: len(palette)] = check_palette(palette)
    table[IGNORE] = VOID
    painted: Pixels = table[labels]
    return painted


def contours(labels: Pixels) -> NDArray[np.bool_]:
    """Where a label differs from the one to the left or above: bool (height, width)."""
    edge = np.zeros(labels.shape, dtype=np.bool_)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return edge


def legend(names: Sequence[str], palette: Sequence[Sequence[int]], width: int = 224) -> Pixels:
    """Class names beside squares of their colours, flowing into lines: uint8 (as high as needed, width, 3).

    A name that is wider than the strip is cut at its edge.
    """
    colors = check_palette(palette)
    font = ImageFont.load_default(size=12)
    line, square, gap = 18, 12, 6
    places, x, y = [], gap, 0
    for name in names:
        length = square + gap + int(np.ceil(font.getlength(name))) + 2 * gap
        if x > gap and x + length > width:
            x, y = gap, y + line
        places.append((x, y))
        x += length
    strip = Image.new("RGB", (width, y + line), _PAPER)
    draw = ImageDraw.Draw(strip)
    for (left, top), name, color in zip(places, names, colors, strict=True):
        draw.rectangle((left, top + 3, left + square - 1, top + 2 + square), fill=color, outline=_INK)
        draw.text((left + square + gap, top + line // 2), name, fill=_INK, font=font, anchor="lm")
    return np.array(strip)


def titles(names: Sequence[str], widths: Sequence[int], gap: int = 4) -> Pixels:
    """A strip of column titles for images of these widths, ``gap`` pixels apart: uint8 (18, sum and gaps, 3)."""
    strip = Image.new("RGB", (sum(widths) + gap * (len(widths) - 1), 18), _PAPER)
    draw, font, x = ImageDraw.Draw(strip), ImageFont.load_default(size=12), 0
    for name, width in zip(names, widths, strict=True):
        draw.text((x + 2, 2), name, fill=(0, 0, 0), font=font)
        x += width + gap
    return np.asarray(strip).copy()


def side_by_side(images: Sequence[Pixels], gap: int = 4) -> Pixels:
    """Images in a row on white, top-aligned, ``gap`` pixels apart: uint8 (tallest, sum of widths and gaps, 3)."""
    return _arrange(images, gap, axis=1)


def stacked(images: Sequence[Pixels], gap: int = 4) -> Pixels:
    """Images in a column on white, left-aligned, ``gap`` pixels apart: uint8 (sum, widest, 3)."""
    return _arrange(images, gap, axis=0)


def _arrange(images: Sequence[Pixels], gap: int, axis: int) -> Pixels:
    if not images:
        raise ImageError("expected at least one image, found none", remedy="give one or more")
    extent = [max(image.shape[0] for image in images), max(image.shape[1] for image in images)]
    extent[axis] = sum(image.shape[axis] for image in images) + gap * (len(images) - 1)
    sheet = np.full((*extent, 3), _PAPER, dtype=np.uint8)
    start = [0, 0]
    for image in images:
        sheet[start[0] : start[0] + image.shape[0], start[1] : start[1] + image.shape[1]] = image
        start[axis] += image.shape[axis] + gap
    return sheet
