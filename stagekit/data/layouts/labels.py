"""How a mask file of a published data set holds its labels.

Each takes a path and returns uint8 (height, width) labels, ``IGNORE`` where they do not count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from stagekit.data.images import Pixels, read_image, read_mask
from stagekit.data.palette import IGNORE, Palette
from stagekit.errors import DatasetError

THRESHOLD = 128
"""Grey from here on is foreground, as MMSegmentation's converters have it: some masks are not quite black and white."""


@dataclass(frozen=True)
class Numbered:
    """An indexed or greyscale file whose values stand for labels.

    Args:
        table: value in the file -> label; values that are not in it are errors.
        hint: what a value outside the table probably means.
    """

    table: Mapping[int, int]
    hint: str
    _labels: Pixels = field(init=False, repr=False, compare=False)
    _known: NDArray[np.bool_] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        labels, known = np.zeros(256, dtype=np.uint8), np.zeros(256, dtype=np.bool_)
        for value, label in self.table.items():
            labels[value], known[value] = label, True
        object.__setattr__(self, "table", MappingProxyType(dict(self.table)))
        object.__setattr__(self, "_labels", labels)
        object.__setattr__(self, "_known", known)

    def __call__(self, path: Path) -> Pixels:
        values = read_mask(path)
        counts = np.bincount(values.reshape(-1), minlength=256)
        strange = np.flatnonzero((counts > 0) & ~self._known)
        if strange.size:
            listed = strange[:8].tolist()
            raise DatasetError(
                f"values {listed} ({counts[strange].sum()} pixels) are outside the classes: "
                f"a mask here holds {_ranges(self.table)}",
                where=path,
                remedy=self.hint,
            )
        labels: Pixels = self._labels[values]
        return labels

    def __reduce__(self) -> tuple[type[Numbered], tuple[dict[int, int], str]]:
        return Numbered, (dict(self.table), self.hint)  # a MappingProxyType does not pickle; loaders' workers need it


@dataclass(frozen=True)
class Painted:
    """A colour file: colour ``i`` of the palette is label ``i``, ``void`` is ``IGNORE``."""

    palette: Palette
    void: tuple[int, int, int]

    def __call__(self, path: Path) -> Pixels:
        if path.is_file() and (mode := _mode(path)) in ("1", "L", "I;16"):
            raise DatasetError(
                f"expected a mask painted in the colours of the classes, found one of numbers (mode {mode})",
                where=path,
                remedy="this layout is the release as published; converted masks belong in the converted layout",
            )
        return read_mask(path, self.palette, self.void)


@dataclass(frozen=True)
class BlackAndWhite:
    """Black is label 0, white is label 1: greyscale, 1-bit or grey stored in colour."""

    def __call__(self, path: Path) -> Pixels:
        colors = read_image(path)
        grey = colors[..., 0]
        if (colors != grey[..., None]).any():
            raise DatasetError(
                "expected a black and white mask, found colours",
                where=path,
                remedy="use the masks of the release; a picture of the eye is no mask",
            )
        if 0 < grey.max(initial=0) < THRESHOLD:
            raise DatasetError(
                f"expected black (0) and white (255), found values up to {grey.max()}",
                where=path,
                remedy="this layout is the release as published; numbered masks belong in the converted layout",
            )
        return (grey >= THRESHOLD).astype(np.uint8)


def shifted(classes: int) -> dict[int, int]:
    """MMSegmentation's ``reduce_zero_label``: 0 does not count, 1 is label 0, and so on."""
    return {0: IGNORE, **{value + 1: value for value in range(classes)}}


def _mode(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            return image.mode
    except Exception:  # damaged; the reader that follows says how
        return None


def _ranges(table: Mapping[int, int]) -> str:
    """The values of a table as a short text: "0 to 5, 255"."""
    runs: list[list[int]] = []
    for value in sorted(table):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(f"{first} to {last}" if last > first else str(first) for first, last in runs)
