"""Data sets by kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from os import PathLike
from pathlib import Path

from stagekit.data.dataset import Dataset
from stagekit.data.folder import Folder
from stagekit.data.layouts import ade20k, coco_stuff, vaihingen, vessels
from stagekit.data.layouts.reader import open_layout
from stagekit.data.tiling import Tiled
from stagekit.errors import UsageError


def _vaihingen(root: Path) -> Dataset:
    """The converted tiles as they are; the release cut as the converter cuts it."""
    found = open_layout("vaihingen", (vaihingen.CONVERTED, *vaihingen.RELEASES), root)
    if found.layout is vaihingen.CONVERTED:
        return found
    return Tiled(found, vaihingen.TILE, vaihingen.STRIDE)


KINDS: Mapping[str, Callable[[Path], Dataset]] = {
    "folder": Folder.open,
    "ade20k": partial(open_layout, "ade20k", ade20k.LAYOUTS),
    "coco-stuff": partial(open_layout, "coco-stuff", coco_stuff.LAYOUTS),
    "vaihingen": _vaihingen,
    "chase": partial(open_layout, "chase", vessels.CHASE),
    "stare": partial(open_layout, "stare", vessels.STARE),
    "hrf": partial(open_layout, "hrf", vessels.HRF),
}
"""What opens a data set of each kind."""


def open_dataset(kind: str, root: str | PathLike[str]) -> Dataset:
    """The data set in ``root``; nothing is read but the names of files.

    Args:
        kind: one of ``KINDS``.
        root: its folder; docs/datasets.md says how each kind is laid out.

    Raises:
        UsageError: for an unknown kind.
        DatasetError: when the folder is laid out otherwise.
    """
    if kind not in KINDS:
        near = get_close_matches(kind, KINDS, n=1)
        raise UsageError(
            f"no kind of data set is called {kind!r}",
            where="kind",
            remedy=f"did you mean {near[0]!r}?" if near else f"one of {', '.join(KINDS)}",
        )
    return KINDS[kind](Path(root))
