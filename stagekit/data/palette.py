"""Colours of classes: what a palette is, and one for those who have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stagekit.errors import DatasetError

Color = tuple[int, int, int]
"""Red, green and blue, 0 to 255 each."""
Palette = tuple[Color, ...]
"""One colour a class, in the order of the labels."""

IGNORE = 255
"""The label of pixels that belong to no class: never learned, never scored."""
MAX_CLASSES = 255
VOID: Color = (224, 224, 192)
"""How ``IGNORE`` is painted, as PASCAL VOC does."""

# Okabe and Ito's colours, told apart by colour-blind readers too; without black, which reads as "no label".
_FIRST: tuple[Color, ...] = (
    (0, 114, 178),
    (230, 159, 0),
    (0, 158, 115),
    (204, 121, 167),
    (86, 180, 233),
    (213, 94, 0),
    (240, 228, 66),
)


def default_palette(classes: int) -> Palette:
    """Distinct colours for ``classes`` classes; the palette of fewer classes is a prefix of that of more.

    After the first seven, each next colour is the point of an RGB lattice farthest from all colours before
    it, black, white and ``VOID`` included.

    Raises:
        DatasetError: for fewer than 1 or more than 255 classes.
    """
    _check_count(classes)
    levels = np.linspace(16, 240, 9).round()
    lattice = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    taken = np.array([(0, 0, 0), (255, 255, 255), VOID, *_FIRST], dtype=float)
    distance = np.linalg.norm(lattice[:, None] - taken[None], axis=2).min(axis=1)
    colors = list(_FIRST)
    while len(colors) < classes:
        farthest = lattice[distance.argmax()]
        red, green, blue = (int(level) for level in farthest)
        colors.append((red, green, blue))
        distance = np.minimum(distance, np.linalg.norm(lattice - farthest, axis=1))
    return tuple(colors[:classes])


def check_palette(palette: Sequence[Sequence[int]]) -> Palette:
    """The palette as a tuple of colours.

    Raises:
        DatasetError: when it has no or more than 255 colours, a colour is not three bytes, or two are equal
            (a mask painted with it could not be read back).
    """
    _check_count(len(palette))
    seen: dict[Color, int] = {}
    for index, color in enumerate(palette):
        if len(color) != 3 or not all(0 <= int(level) <= 255 for level in color):
            raise DatasetError(
                f"colour {index} is {list(color)}, expected three numbers from 0 to 255",
                remedy="write each colour as [red, green, blue]",
            )
        red, green, blue = (int(level) for level in color)
        first = seen.setdefault((red, green, blue), index)
        if first != index:
            raise DatasetError(
                f"classes {first} and {index} have the same colour {list(color)}",
                remedy="give each class a colour of its own",
            )
    return tuple(seen)


def _check_count(classes: int) -> None:
    if not 1 <= classes <= MAX_CLASSES:
        raise DatasetError(
            f"{classes} classes, expected 1 to {MAX_CLASSES}",
            remedy=f"a label is one byte, and {IGNORE} is kept for pixels of no class",
        )
