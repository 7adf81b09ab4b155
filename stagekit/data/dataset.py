"""What every data set offers, however its files are laid out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from stagekit.data.classes import Classes
from stagekit.data.images import Pixels
from stagekit.errors import DatasetError, StagekitError

LISTED = 20
"""So many problems are spelled out by ``check``; the rest are counted."""


class Sample(NamedTuple):
    """An image uint8 (height, width, 3) with its labels uint8 (height, width), ``IGNORE`` where they do not count."""

    stem: str
    image: Pixels
    mask: Pixels


class Dataset(Protocol):
    """Images with labels, in splits. Listing and reading are lazy, their order is fixed; ``check`` reads everything."""

    @property
    def root(self) -> Path: ...
    @property
    def classes(self) -> Classes: ...
    @property
    def splits(self) -> Mapping[str, tuple[str, ...]]: ...

    def stems(self, split: str | None = None) -> tuple[str, ...]: ...
    def read(self, stem: str) -> Sample: ...
    def samples(self, split: str | None = None) -> Iterator[Sample]: ...
    def check(self, progress: Callable[[int, int], object] = ...) -> None: ...
    def class_frequencies(self, split: str | None = None) -> NDArray[np.float64]: ...
    def digest(self) -> str: ...


class Samples:
    """What every data set offers once its stems are listed and read."""

    def samples(self: Dataset, split: str | None = None) -> Iterator[Sample]:
        """The samples of a split, or all, in order; read as they are asked for."""
        return (self.read(stem) for stem in self.stems(split))

    def class_frequencies(self: Dataset, split: str | None = None) -> NDArray[np.float64]:
        """The share of each class among the labelled pixels of a split: float64 (classes,), sum 1.

        Raises:
            DatasetError: when no pixel is labelled.
        """
        counts = np.zeros(256, dtype=np.int64)
        for sample in self.samples(split):
            counts += np.bincount(sample.mask.reshape(-1), minlength=256)
        labelled = counts[: len(self.classes.names)]
        if not labelled.sum():
            raise DatasetError("expected labelled pixels, found none", where=self.root, remedy="label some")
        shares: NDArray[np.float64] = labelled / labelled.sum()
        return shares

    def digest(self: Dataset) -> str:
        """SHA-256 (hex) of class names, splits and decoded pixels: equal for equal content, however laid out."""
        hashed = hashlib.sha256(repr((self.classes.names, dict(self.splits))).encode())
        for stem, image, mask in self.samples():
            hashed.update(repr((stem, image.shape)).encode())
            hashed.update(np.ascontiguousarray(image).data)
            hashed.update(np.ascontiguousarray(mask).data)
        return hashed.hexdigest()


def check_split(dataset: Dataset, split: str, remedy: str) -> None:
    """Raises DatasetError, which lists the splits, unless there is one of this name."""
    if split not in dataset.splits:
        there = ", ".join(dataset.splits) or "none"
        raise DatasetError(f"no split is called {split!r}; there are: {there}", where=dataset.root, remedy=remedy)


def check_size(image: Pixels, mask: Pixels, where: Path, remedy: str) -> None:
    """Raises DatasetError, at the mask's file, unless the mask has its image's height and width."""
    if mask.shape != image.shape[:2]:
        (rows, columns), (height, width) = mask.shape, image.shape[:2]
        raise DatasetError(
            f"the mask has {columns}x{rows} pixels, its image {width}x{height}", where=where, remedy=remedy
        )


def reading_problems(
    dataset: Dataset, stems: Sequence[str], progress: Callable[[int, int], object] = lambda done, total: None
) -> list[str]:
    """Read each sample once; a line for each that cannot be, its file named relative to the data set."""
    problems = []
    for done, stem in enumerate(stems):
        progress(done, len(stems))
        try:
            dataset.read(stem)
        except StagekitError as error:
            where = Path(error.where or "")
            shown = where.relative_to(dataset.root) if where.is_relative_to(dataset.root) else where
            problems.append(f"{shown.as_posix()}: {error.what}")
    progress(len(stems), len(stems))
    return problems


def refuse(problems: Sequence[str], root: Path, remedy: str) -> None:
    """Raise one DatasetError that lists the first ``LISTED`` problems and counts the rest; nothing if there is none."""
    if problems:
        listed = "".join(f"\n  - {problem}" for problem in problems[:LISTED])
        more = f"\n  and {len(problems) - LISTED} more" if len(problems) > LISTED else ""
        raise DatasetError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''}:{listed}{more}", where=root, remedy=remedy
        )
