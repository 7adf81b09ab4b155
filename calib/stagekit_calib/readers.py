"""Where calibration images come from: a folder, a data set, or anything that can be iterated."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.data.folder import Folder
from stagekit.data.images import Pixels, list_images, read_image
from stagekit.errors import DatasetError


@dataclass(frozen=True)
class Images:
    """Named images, read as they are asked for; iterating again starts anew.

    Args:
        source: for people and the record.
        total: how many, where that is known.
        open: gives (name, uint8 (height, width, 3)) in order.
    """

    source: str
    total: int | None
    open: Callable[[], Iterator[tuple[str, Pixels]]]

    def __iter__(self) -> Iterator[tuple[str, Pixels]]:
        return self.open()


def from_path(path: Path, split: str | None = None, limit: int | None = None) -> Images:
    """A data set in the layout of :class:`stagekit.data.folder.Folder`, or a folder of images.

    Of a data set, its ``train`` split by default, so that what it is tested on stays unseen.

    Raises:
        DatasetError, ImageError: nothing is there to read.
    """
    if (path / "classes.json").is_file():
        folder = Folder.open(path)
        chosen = split or ("train" if "train" in folder.splits else None)
        files = [folder.images.get(s, folder.root / "images" / s) for s in folder.stems(chosen)]
        source = f"{path.name}:{chosen or 'all'}"
    elif split is not None:
        raise DatasetError("a plain folder of images has no splits", where=path, remedy="leave --split out")
    else:
        files, source = list_images([path]), path.name
    files = files[:limit]
    return Images(source, len(files), lambda: ((f.stem, read_image(f)) for f in files))


def from_iterable(
    items: Iterable[Any], transform: Callable[[Any], Pixels] | None = None, source: str = "iterable"
) -> Images:
    """Any iterable of images, or of things that ``transform`` makes images of: uint8 (height, width, 3)."""

    def read() -> Iterator[tuple[str, Pixels]]:
        for index, item in enumerate(items):
            image = np.asarray(item if transform is None else transform(item))
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                what = f"item {index}: expected uint8 (height, width, 3), found {image.dtype} {image.shape}"
                raise DatasetError(what, where=source, remedy="give a transform that makes such an image")
            yield f"{source}[{index}]", image

    return Images(source, len(items) if isinstance(items, Sized) else None, read)
