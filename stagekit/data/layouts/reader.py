"""One reader for every layout: lists, reads and checks what a :class:`Layout` describes."""

from __future__ import annotations

import gzip
import re
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from stagekit.data.classes import Classes
from stagekit.data.dataset import LISTED, Sample, Samples, check_size, check_split, reading_problems, refuse
from stagekit.data.images import is_image_name, read_image
from stagekit.data.layouts.layout import Layout, Place, names
from stagekit.errors import DatasetError, ImageError, StagekitError

_TRANSPOSED = (5, 6, 7, 8)  # values of EXIF's orientation that swap width and height
_ORIENTATION = 0x0112
_COMPARED = 500
"""In a folder of more files, likeness between names takes too long to look for."""


class Pair(NamedTuple):
    """An image, its mask (none if it is missing) and its split."""

    image: Path
    mask: Path | None
    split: str


@dataclass(frozen=True)
class Published(Samples):
    """A published data set in one of its layouts; as :class:`stagekit.data.dataset.Dataset`.

    Args:
        root: of the data set.
        layout: how its files lie.
    """

    root: Path
    layout: Layout

    @property
    def classes(self) -> Classes:
        """Names and colours, with source and licence."""
        return self.layout.classes

    @cached_property
    def pairs(self) -> Mapping[str, Pair]:
        """Images with their masks by stem, sorted by stem; of two images with one stem the first counts."""
        found: dict[str, Pair] = {}
        for place in self.layout.places:
            masks = {name.lower(): name for name in names(self.root / place.masks)}
            for name in sorted(names(self.root / place.images)):
                stem = self.layout.image_stem(name)
                if stem is None or stem in found:
                    continue
                mask = next((masks[m] for m in self.layout.mask_names(stem) if m in masks), None)
                where = self.root / place.masks / mask if mask is not None else None
                found[stem] = Pair(self.root / place.images / name, where, self._split(place, stem))
        return dict(sorted(found.items()))

    @cached_property
    def splits(self) -> Mapping[str, tuple[str, ...]]:
        """The stems of each split, sorted; train first."""
        order = ("train", "val", "test")
        stems: dict[str, list[str]] = {}
        for stem, pair in self.pairs.items():
            stems.setdefault(pair.split, []).append(stem)
        return {split: tuple(stems[split]) for split in order if split in stems}

    def stems(self, split: str | None = None) -> tuple[str, ...]:
        """The stems of a split, or of all images.

        Raises:
            DatasetError: when there is no such split, or no image at all.
        """
        if not self.pairs:
            problems = [problem for place in self.layout.places for problem in self._listing_problems(place)]
            refuse(problems, self.root, "docs/datasets.md says where files belong")
        if split is None:
            return tuple(self.pairs)
        check_split(self, split, "these sets have train and val; what papers call their test set is val")
        return self.splits[split]

    def read(self, stem: str) -> Sample:
        """One image with its labels; each file is decoded once.

        Raises:
            ImageError: when a file is missing or unreadable.
            DatasetError: when there is no such stem, image and mask differ in size, or a label is outside the classes.
        """
        image_file, mask_file = self._pair(stem)
        with _unpacked(image_file) as path:
            image = read_image(path)
        with _unpacked(mask_file) as path:
            mask = self.layout.labels(path)
        check_size(image, mask, mask_file, "download both again; the release has them in one size")
        return Sample(stem, image, mask)

    def shape(self, stem: str) -> tuple[int, int]:
        """Height and width of an image in pixels, upright, from its header alone.

        Raises:
            ImageError: when the file is no image.
            DatasetError: when there is no such stem.
        """
        file, _ = self._pair(stem, masked=False)
        with _unpacked(file) as path:
            try:
                with Image.open(path) as image:
                    width, height = image.size
                    turned = image.getexif().get(_ORIENTATION) in _TRANSPOSED
            except Exception as error:  # Pillow reports damage as whatever it stumbles over
                raise ImageError(f"expected an image ({error})", where=path, remedy="copy it again") from error
        return (width, height) if turned else (height, width)

    def check(self, progress: Callable[[int, int], object] = lambda done, total: None) -> None:
        """Read the whole data set, each file once, and report everything that is wrong with it at once.

        Args:
            progress: called with (pairs read, pairs in all).

        Raises:
            DatasetError: lists the first 20 problems and counts the rest.
        """
        problems = [problem for place in self.layout.places for problem in self._listing_problems(place)]
        problems += self._repeated_stems()
        complete = [stem for stem, pair in self.pairs.items() if pair.mask is not None]
        problems += reading_problems(self, complete, progress)
        refuse(problems, self.root, f"expected {self.layout.describe()}; docs/datasets.md says where files belong")

    def differences(self) -> tuple[str, ...]:
        """Splits that are not as large as published, for a reader to know: a part of a set is no error."""
        counts = {split: len(stems) for split, stems in self.splits.items()}
        return tuple(
            f"{split}: {counts.get(split, 0)} images, published {size}"
            for split, size in self.layout.published.items()
            if counts.get(split, 0) != size
        )

    def _split(self, place: Place, stem: str) -> str:
        return place.split or (self.layout.split_of(stem) if self.layout.split_of else "train")

    def _pair(self, stem: str, masked: bool = True) -> tuple[Path, Path]:
        pair = self.pairs.get(stem)
        if pair is None:
            near = get_close_matches(stem, self.pairs, n=3)
            raise DatasetError(
                f"no image is called {stem!r}",
                where=self.root,
                remedy=f"did you mean {', '.join(near)}?" if near else "list them with stems()",
            )
        if pair.mask is None and masked:
            place = self._place(pair)
            what = self._no_mask(stem, place, self._unclaimed(place))
            raise DatasetError(what, where=pair.image, remedy="add its mask, or remove the image")
        return pair.image, pair.mask or pair.image

    def _place(self, pair: Pair) -> Place:
        return next(place for place in self.layout.places if self.root / place.images == pair.image.parent)

    def _unclaimed(self, place: Place) -> dict[str, str]:
        """Files among the masks that are no image's, by name in lower case; none if they are many."""
        there = [name for name in names(self.root / place.masks) if self.layout.mask_stem(name) not in self.pairs]
        return {name.lower(): name for name in sorted(there)} if len(there) <= _COMPARED else {}

    def _no_mask(self, stem: str, place: Place, unclaimed: Mapping[str, str]) -> str:
        near = get_close_matches(self.layout.mask_names(stem)[0], unclaimed, n=1, cutoff=0.8)
        hint = f"; the nearest is {unclaimed[near[0]]}" if near else ""
        wanted = " or ".join(template.format(stem=stem) for template in self.layout.mask)
        return f"no mask {wanted} in {place.masks}/{hint}"

    def _listing_problems(self, place: Place) -> list[str]:
        """What the names of the files in a place say."""
        listed = sorted(names(self.root / place.images))
        stems = {stem for name in listed if (stem := self.layout.image_stem(name)) is not None}
        expected = " or ".join(template.format(stem="*") for template in self.layout.image)
        problems = [] if stems else [f"{place.images}/: no image is called {expected}; {_examples(listed)}"]
        strange = [name for name in listed if self._is_strange(place, name)] if stems else []
        if strange:
            problems.append(
                f"{place.images}/: {len(strange)} images are not called as expected ({expected}): {_few(strange)}"
            )
        folder = self.root / place.images
        alone = [(s, pair) for s, pair in self.pairs.items() if pair.mask is None and pair.image.parent == folder]
        unclaimed = self._unclaimed(place) if alone else {}
        problems += [
            # Likeness takes time: only what is shown is compared.
            f"{(Path(place.images) / pair.image.name).as_posix()}: "
            f"{self._no_mask(stem, place, unclaimed if number < LISTED else {})}"
            for number, (stem, pair) in enumerate(alone)
        ]
        problems += [
            f"{(Path(place.masks) / name).as_posix()}: no image of this stem in {place.images}/"
            for name in sorted(names(self.root / place.masks))
            if (stem := self.layout.mask_stem(name)) is not None and stem not in stems
        ]
        return problems

    def _is_strange(self, place: Place, name: str) -> bool:
        return (
            is_image_name(Path(name))
            and self.layout.image_stem(name) is None
            and not (place.images == place.masks and self.layout.mask_stem(name) is not None)
            and not re.fullmatch(self.layout.passed_over, name, re.IGNORECASE)
        )

    def _repeated_stems(self) -> list[str]:
        files: dict[str, list[str]] = {}
        for place in self.layout.places:
            for name in sorted(names(self.root / place.images)):
                if (stem := self.layout.image_stem(name)) is not None:
                    files.setdefault(stem, []).append(f"{place.images}/{name}")
        repeated = {stem: found for stem, found in files.items() if len(found) > 1}
        return [f"{stem}: several images of this stem: {_few(found)}" for stem, found in repeated.items()]


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """The file, or for a ``.gz`` an unpacked copy of it for as long as the block runs."""
    if file.suffix.lower() != ".gz":
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="stagekit-") as folder:
        copy = Path(folder) / file.stem
        try:
            with gzip.open(file) as packed, copy.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (OSError, EOFError, zlib.error) as error:
            raise ImageError(
                f"expected a gzip file, found one that is damaged ({error})", where=file, remedy="copy it again"
            ) from error
        try:
            yield copy
        except StagekitError as error:
            # The copy is gone when its name is read.
            raise type(error)(error.what, where=file, remedy=error.remedy) from error


def _examples(listed: list[str]) -> str:
    return f"found {_few(listed)}" if listed else "it is empty"


def _few(listed: list[str]) -> str:
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")


def open_layout(kind: str, layouts: tuple[Layout, ...], root: str | PathLike[str]) -> Published:
    """The data set in ``root``, in whichever of its layouts fits best.

    Raises:
        DatasetError: when none does: lists what each expects, which folders are missing, and what is there.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise DatasetError(f"expected the folder of {kind}, found none", where=folder, remedy="check the path")
    best = max(layouts, key=lambda layout: layout.fits(folder))
    if best.fits(folder):
        return Published(folder, best)
    expected = "".join(
        f"\n  - {layout.describe()}\n    missing: {', '.join(layout.missing(folder))}" for layout in layouts
    )
    listed = sorted(entry.name + "/" * entry.is_dir() for entry in folder.iterdir() if not entry.name.startswith("."))
    beside = [*sorted(entry for entry in folder.iterdir() if entry.is_dir()), folder.absolute().parent]
    near = [place for place in beside if any(layout.fits(place) for layout in layouts)]
    raise DatasetError(
        f"expected {kind} in one of these layouts:{expected}\n  found: {_few(listed) if listed else 'nothing'}",
        where=folder,
        remedy=f"its root is {near[0]}" if near else "lay it out as docs/datasets.md says",
    )
