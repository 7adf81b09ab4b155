"""Large images as tiles of one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

from stagekit.data.classes import Classes
from stagekit.data.dataset import Dataset, Sample, Samples
from stagekit.errors import DatasetError, UsageError


class Tile(NamedTuple):
    """A box of an image in pixels; bottom and right are the first row and column outside it."""

    top: int
    left: int
    bottom: int
    right: int


def tiles(height: int, width: int, size: int, stride: int) -> tuple[Tile, ...]:
    """Boxes of ``size`` x ``size`` that cover an image, ``stride`` apart, row by row.

    The last of a row or column is moved back into the image, so all have one size and it may overlap its neighbour
    by more than ``size - stride``. An image that is smaller than a tile gives one that is as small.

    Raises:
        UsageError: when the stride is not positive, or exceeds the size and so would leave gaps.
    """
    if not 0 < stride <= size:
        raise UsageError(
            f"tiles of {size} pixels, {stride} apart, do not cover an image", remedy=f"take a stride from 1 to {size}"
        )
    return tuple(
        Tile(top, left, min(top + size, height), min(left + size, width))
        for top in _starts(height, size, stride)
        for left in _starts(width, size, stride)
    )


def _starts(length: int, size: int, stride: int) -> list[int]:
    last = max(length - size, 0)
    return [*range(0, last, stride), last]


class Measured(Dataset, Protocol):
    """A data set that knows the sizes of its images without decoding them."""

    def shape(self, stem: str) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Tiled(Samples):
    """A data set cut into tiles; as :class:`stagekit.data.dataset.Dataset`.

    A tile is called ``{stem}_{left}_{top}_{right}_{bottom}``, as MMSegmentation names them. The image read last is
    kept, so that reading in order decodes each once; for a loader that shuffles, write the tiles out first
    (:func:`stagekit.data.folder.to_folder`). Where tiles overlap a pixel counts in each, as it does in training.

    Args:
        whole: the uncut data set.
        size: side of a tile in pixels.
        stride: from one tile to the next, in pixels.
    """

    whole: Measured
    size: int = 512
    stride: int = 512
    _last: list[Sample] = field(default_factory=list, init=False, repr=False, compare=False)

    @property
    def root(self) -> Path:
        """Of the uncut data set."""
        return self.whole.root

    @property
    def classes(self) -> Classes:
        """Of the uncut data set."""
        return self.whole.classes

    @cached_property
    def tiles(self) -> Mapping[str, tuple[str, Tile]]:
        """By name, sorted: the image's stem and the box. Reads the header of every image."""
        named = {
            f"{stem}_{tile.left}_{tile.top}_{tile.right}_{tile.bottom}": (stem, tile)
            for stem in self.whole.stems()
            for tile in tiles(*self.whole.shape(stem), self.size, self.stride)
        }
        return dict(sorted(named.items()))

    @cached_property
    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """The tiles of the images of each split, sorted."""
        split_of = {stem: split for split, stems in self.whole.splits.items() for stem in stems}
        tiles_of: dict[str, list[str]] = {split: [] for split in self.whole.splits}
        for name, (stem, _) in self.tiles.items():
            if stem in split_of:
                tiles_of[split_of[stem]].append(name)
        return {split: tuple(named) for split, named in tiles_of.items()}

    def stems(self, split: str | None = None) -> tuple[str, ...]:
        """The names of the tiles of a split, or of all, sorted.

        Raises:
            DatasetError: when there is no such split.
            ImageError: when the header of an image cannot be read.
        """
        if split is None:
            return tuple(self.tiles)
        self.whole.stems(split)  # says which splits there are
        return self.splits[split]

    def read(self, stem: str) -> Sample:
        """One tile with its labels.

        Raises:
            DatasetError: when there is no such tile, or as the uncut data set.
            ImageError: when a file is missing or unreadable.
        """
        if stem not in self.tiles:
            raise DatasetError(
                f"no tile is called {stem!r}", where=self.root, remedy="names are STEM_left_top_right_bottom"
            )
        source, (top, left, bottom, right) = self.tiles[stem]
        if not self._last or self._last[0].stem != source:
            self._last[:] = [self.whole.read(source)]
        _, image, mask = self._last[0]
        # Copies: a view would keep the whole image in memory for as long as the tile lives.
        return Sample(stem, image[top:bottom, left:right].copy(), mask[top:bottom, left:right].copy())

    def check(self, progress: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Check the uncut data set.

        Raises:
            DatasetError: lists everything that is wrong with it.
        """
        self.whole.check(progress)
