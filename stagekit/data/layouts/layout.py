"""What a published data set looks like on disk, as a table; :mod:`reader` does the rest."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from os import scandir
from pathlib import Path

from stagekit.data.classes import Classes
from stagekit.data.images import Pixels


@dataclass(frozen=True, slots=True)
class Place:
    """Where the images and masks of one split lie.

    Args:
        images: folder, relative to the root of the data set.
        masks: likewise.
        split: empty where images of several splits lie together; ``Layout.split_of`` then decides.
    """

    images: str
    masks: str
    split: str = ""


@dataclass(frozen=True)
class Layout:
    """One way in which a data set is laid out.

    File names are templates with ``{stem}``, compared without regard to case (HRF has both ``.jpg`` and ``.JPG``).

    Args:
        title: for messages and documents: whose layout this is.
        places: folders.
        image: names of image files.
        mask: names of the mask of a stem; the first that is there counts.
        labels: reads a mask file.
        classes: names, colours, source, licence.
        stem: regular expression that a whole stem matches.
        split_of: the split of a stem, where a place names none.
        published: images in each split of the complete set.
        passed_over: regular expression of further image files that may lie beside the images.
    """

    title: str
    places: tuple[Place, ...]
    image: tuple[str, ...]
    mask: tuple[str, ...]
    labels: Callable[[Path], Pixels]
    classes: Classes
    stem: str = ".+"
    split_of: Callable[[str], str] | None = None
    published: Mapping[str, int] = field(default_factory=dict)
    passed_over: str = r"(?!)"

    @cached_property
    def _image_name(self) -> re.Pattern[str]:
        return _compile(self.image, self.stem)

    @cached_property
    def _mask_name(self) -> re.Pattern[str]:
        return _compile(self.mask, self.stem)

    def image_stem(self, name: str) -> str | None:
        """The stem of an image file's name, or none if it is another file."""
        return _stem(self._image_name, name)

    def mask_stem(self, name: str) -> str | None:
        """The stem of the image that a file named so is a mask of, or none if it is another file."""
        return _stem(self._mask_name, name)

    def mask_names(self, stem: str) -> tuple[str, ...]:
        """The names, in lower case, under which the mask of a stem is looked for."""
        return tuple(template.format(stem=stem).lower() for template in self.mask)

    @property
    def folders(self) -> tuple[str, ...]:
        """All folders, in the order of the table, each once."""
        return tuple(dict.fromkeys(folder for place in self.places for folder in (place.images, place.masks)))

    def missing(self, root: Path) -> list[str]:
        """The folders that are not there, each with the nearest that is; of a layout without any, its files."""
        if self.folders == (".",):
            return [*_star(self.image), *_star(self.mask)]
        return [_missing(root, folder) for folder in self.folders if not (root / folder).is_dir()]

    def fits(self, root: Path) -> int:
        """0: folders are missing; 1: all are there; 2: and each holds files that are named as they should be."""
        if any(not (root / folder).is_dir() for folder in self.folders):
            return 0
        filled = all(
            any(map(self.image_stem, names(root / place.images)))
            and any(map(self.mask_stem, names(root / place.masks)))
            for place in self.places
        )
        if not filled and self.folders == (".",):
            return 0  # any folder would do
        return 2 if filled else 1

    def describe(self) -> str:
        """Folders and file names on one line."""
        pairs = ", ".join(
            f"{_slash(place.images)}{' or '.join(_star(self.image))} with {_slash(place.masks)}"
            f"{' or '.join(_star(self.mask))}"
            for place in self.places
        )
        return f"{self.title}: {pairs}"


def names(folder: Path) -> Iterator[str]:
    """The names of the files in a folder, hidden ones passed over, in no order."""
    with scandir(folder) as entries:
        for entry in entries:
            if not entry.name.startswith(".") and entry.is_file():
                yield entry.name


def _compile(templates: tuple[str, ...], stem: str) -> re.Pattern[str]:
    # One group a template: a name may not occur twice in a pattern.
    forms = (re.escape(t).replace(re.escape("{stem}"), f"({stem})") for t in templates)
    return re.compile("|".join(f"(?:{form})" for form in forms), re.IGNORECASE)


def _stem(pattern: re.Pattern[str], name: str) -> str | None:
    match = pattern.fullmatch(name)
    return None if match is None else next(group for group in match.groups() if group is not None)


def _missing(root: Path, folder: str) -> str:
    parent, wanted = root, folder
    for part in Path(folder).parts:
        if not (parent / part).is_dir():
            wanted = part
            break
        parent /= part
    there = [entry.name for entry in parent.iterdir() if entry.is_dir()] if parent.is_dir() else []
    near = get_close_matches(wanted, sorted(there), n=1, cutoff=0.5)
    # "val" for "validation" is too short for the measure of likeness, but means the same.
    near = near or sorted(name for name in there if wanted.startswith(name) or name.startswith(wanted))[:1]
    hint = f" (is it {(parent / near[0]).relative_to(root).as_posix()}/?)" if near else ""
    return f"{folder}/{hint}"


def _slash(folder: str) -> str:
    return "" if folder == "." else f"{folder}/"


def _star(templates: tuple[str, ...]) -> list[str]:
    return [template.format(stem="*") for template in templates]
