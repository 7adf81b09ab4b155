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


def class_frequencies(dataset: Dataset, split: str | None = None) -> NDArray[np.float64]:
    """The share of each class among the labelled pixels of a split: float64 (classes,), sum 1.

    Raises:
        DatasetError: when no pixel is labelled.
    """
    counts = np.zeros(256, dtype=np.int64)
    for sample in dataset.samples(split):
        counts += np.bincount(sample.mask.reshape(-1), minlength=256)
    labelled = counts[: len(dataset.classes.names)]
    if not labelled.sum():
        raise DatasetError("expected labelled pixels, found none", where=dataset.root, remedy="label some")
    shares: NDArray[np.float64] = labelled / labelled.sum()
    return shares


def digest(dataset: Dataset) -> str:
    """SHA-256 (hex) of class names, splits and decoded pixels: equal for equal content, however laid out or packed."""
    hashed = hashlib.sha256(repr((dataset.classes.names, dict(dataset.splits))).encode())
    for stem, image, mask in dataset.samples():
        hashed.update(repr((stem, image.shape)).encode())
        hashed.update(np.ascontiguousarray(image).data)
        hashed.update(np.ascontiguousarray(mask).data)
    return hashed.hexdigest()


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
