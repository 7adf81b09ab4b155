"""A data set as a folder: images, masks, classes and splits that a person can look at.

::

    root/
      classes.json            {"classes": [{"name": "water", "color": [0, 114, 178]}, ...], "ignore": 255,
                               "source": "where it comes from", "license": "..."}
      images/north.jpg        any image format
      masks/north.png         same stem; labels indexed, greyscale, or painted in the colours of the classes
      train.txt val.txt ...   optional: one stem a line, each in one file
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from os import PathLike
from pathlib import Path

import numpy as np

from stagekit.data.classes import Classes
from stagekit.data.dataset import Dataset, Sample, Samples, check_size, check_split, reading_problems, refuse
from stagekit.data.images import is_image_name, read_image, read_mask, write_image, write_mask
from stagekit.data.palette import IGNORE
from stagekit.errors import DatasetError

__all__ = ["Folder", "Sample", "to_folder", "write_folder"]


@dataclass(frozen=True)
class Folder(Samples):
    """A data set laid out as this module says. Listing is lazy; ``check`` reads everything."""

    root: Path
    classes: Classes

    @classmethod
    def open(cls, root: str | PathLike[str]) -> Folder:
        """The data set in ``root``.

        Raises:
            DatasetError: when the folder, ``classes.json``, ``images/`` or ``masks/`` is missing or unreadable.
        """
        folder = Path(root)
        missing = [f"{part}/" for part in ("images", "masks") if not (folder / part).is_dir()]
        if missing:
            missing += [] if (folder / "classes.json").is_file() else ["classes.json"]
            raise DatasetError(
                f"expected {', '.join(missing)} in the data set, found none",
                where=folder,
                remedy="lay it out as images/NAME.jpg, masks/NAME.png, classes.json, train.txt, val.txt, test.txt",
            )
        return cls(folder, Classes.read(folder / "classes.json"))

    @cached_property
    def images(self) -> Mapping[str, Path]:
        """Image files by stem, sorted."""
        return {file.stem: file for file in sorted((self.root / "images").iterdir()) if is_image_name(file)}

    @cached_property
    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """The stems that each split file names, in its order; train, val and test first."""
        order = {"train": 0, "val": 1, "test": 2}
        files = sorted(self.root.glob("*.txt"), key=lambda file: (order.get(file.stem, 3), file.stem))
        read = {file.stem: file.read_text(encoding="utf-8-sig").splitlines() for file in files if file.stem in order}
        return {name: tuple(line.strip() for line in lines if line.strip()) for name, lines in read.items()}

    def stems(self, split: str | None = None) -> tuple[str, ...]:
        """The stems of a split, or of all images.

        Raises:
            DatasetError: when there is no such split or it names nothing.
        """
        if split is None:
            chosen = tuple(self.images)
        else:
            check_split(self, split, f"list its stems in {split}.txt, which may be train.txt, val.txt or test.txt")
            chosen = self.splits[split]
        if not chosen:
            raise DatasetError("expected images, found none", where=self.root, remedy=f"fill {split or 'images/'}")
        return chosen

    def read(self, stem: str) -> Sample:
        """One image with its labels.

        Raises:
            ImageError: when a file is missing or unreadable.
            DatasetError: when image and mask differ in size or a label is outside the classes.
        """
        image = read_image(self.images.get(stem, self.root / "images" / stem))
        path = self.root / "masks" / f"{stem}.png"
        mask = read_mask(path, self.classes.palette)
        check_size(image, mask, path, "export it in the image's size")
        counts = np.bincount(mask.reshape(-1), minlength=256)
        counts[self.classes.ignore] = 0
        strange = np.flatnonzero(counts[len(self.classes.names) :]) + len(self.classes.names)
        if strange.size:
            raise DatasetError(
                f"labels {strange[:8].tolist()} ({counts[strange].sum()} pixels) are outside the classes "
                f"0..{len(self.classes.names) - 1} and not the ignore label {self.classes.ignore}",
                where=path,
                remedy="add the classes to classes.json, or set its ignore",
            )
        if self.classes.ignore != IGNORE:
            mask = np.where(mask == self.classes.ignore, np.uint8(IGNORE), mask)
        return Sample(stem, image, mask)

    def check(self, progress: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Read the whole data set and report everything that is wrong with it at once.

        Args:
            progress: called with (pairs read, pairs in all).

        Raises:
            DatasetError: lists the first 20 problems and counts the rest.
        """
        problems = self._pairing_problems()
        pairs = [stem for stem in self.images if self._has_mask(stem)]
        problems += reading_problems(self, pairs, progress)
        refuse(problems, self.root, "mend or remove these files; every image needs a PNG mask of its stem and size")

    def _pairing_problems(self) -> list[str]:
        files = [file for file in sorted((self.root / "images").iterdir()) if is_image_name(file)]
        masks = {file.stem for file in (self.root / "masks").iterdir() if not file.name.startswith(".")}
        problems = [] if files else ["images/: no image in it"]
        problems += [
            f"images/{stem}.*: {count} files of this stem"
            for stem, count in Counter(f.stem for f in files).items()
            if count > 1
        ]
        problems += [
            f"images/{self.images[stem].name}: no masks/{stem}.png" for stem in self.images if not self._has_mask(stem)
        ]
        problems += [f"masks/{stem}.*: no image of this stem" for stem in sorted(masks - self.images.keys())]
        owner: dict[str, str] = {}
        for split, stems in self.splits.items():
            problems += [] if stems else [f"{split}.txt: names no image"]
            for stem in stems:
                first = owner.setdefault(stem, split)
                if stem not in self.images:
                    problems.append(f"{split}.txt: {stem} has no image")
                elif first != split:
                    problems.append(f"{split}.txt: {stem} is in {first}.txt too")
        for split, stems in self.splits.items():
            problems += [f"{split}.txt: {stem} is named {n} times" for stem, n in Counter(stems).items() if n > 1]
        return problems

    def _has_mask(self, stem: str) -> bool:
        return (self.root / "masks" / f"{stem}.png").is_file()


def write_folder(root: str | PathLike[str], classes: Classes, samples: Iterable[tuple[str | None, Sample]]) -> Folder:
    """Write a data set: ``samples`` are (split or none, sample) and are taken one at a time.

    Images and masks become PNG. ``IGNORE`` in a mask is written as it is, so ``classes.ignore`` must be 255.

    Raises:
        DatasetError: when ``root`` already holds something, or a stem comes twice.
        ImageError: when a mask holds a label outside the classes.
    """
    folder = Path(root)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DatasetError(
            "expected a new or empty folder, found files", where=folder, remedy="choose another, or remove it"
        )
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    splits: dict[str, list[str]] = {}
    seen: set[str] = set()
    for split, (stem, image, mask) in samples:
        if stem in seen:
            raise DatasetError(f"two samples are called {stem}", where=folder, remedy="give each a name of its own")
        seen.add(stem)
        write_image(folder / "images" / f"{stem}.png", image)
        write_mask(folder / "masks" / f"{stem}.png", mask, classes.palette)
        if split is not None:
            splits.setdefault(split, []).append(stem)
    for split, stems in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{stem}\n" for stem in stems), encoding="utf-8")
    # Last, so that a folder with classes.json is a complete one.
    classes.write(folder / "classes.json")
    return Folder.open(folder)


def to_folder(
    dataset: Dataset,
    root: str | PathLike[str],
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Folder:
    """Write any data set as a folder, one sample at a time; what belongs to no split is written too.

    Images become PNG, which for photographs is several times the size of the JPEG.

    Args:
        dataset: what to copy.
        root: a new or empty folder.
        progress: called with (samples written, samples in all).

    Raises:
        DatasetError: as for :func:`write_folder`.
    """
    # By split, so that each list keeps its order; then what belongs to none.
    order: list[tuple[str | None, str]] = [(split, stem) for split, stems in dataset.splits.items() for stem in stems]
    named = {stem for _, stem in order}
    order += [(None, stem) for stem in dataset.stems() if stem not in named]

    def samples() -> Iterator[tuple[str | None, Sample]]:
        for done, (split, stem) in enumerate(order):
            progress(done, len(order))
            yield split, dataset.read(stem)
        progress(len(order), len(order))

    return write_folder(root, replace(dataset.classes, ignore=IGNORE), samples())
