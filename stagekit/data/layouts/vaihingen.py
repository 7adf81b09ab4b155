"""ISPRS Vaihingen, 2D semantic labelling: near-infrared, red and green at 9 cm a pixel."""

from __future__ import annotations

from stagekit.data.classes import Classes
from stagekit.data.layouts.labels import Numbered, Painted, shifted
from stagekit.data.layouts.layout import Layout, Place

TRAIN = (1, 3, 5, 7, 11, 13, 15, 17, 21, 23, 26, 28, 30, 32, 34, 37)
"""Areas that the contest gave labels for; MMSegmentation trains on them."""
VAL = (2, 4, 6, 8, 10, 12, 14, 16, 20, 22, 24, 27, 29, 31, 33, 35, 38)
"""The contest's test areas."""

TILE = 512
STRIDE = 512
"""MMSegmentation's converter takes a stride of 256, but steps by the tile's own size: that gives its 344 and 398."""

_BOUNDARY = (0, 0, 0)  # the eroded labels leave the rim of every object out

CLASSES = Classes(
    names=("impervious_surface", "building", "low_vegetation", "tree", "car", "clutter"),
    palette=((255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)),
    source="ISPRS benchmark, Vaihingen, provided by the DGPF: Cramer, PFG 2010",
    license="Scientific use after registration with the ISPRS, with acknowledgement; not to be passed on",
)


def _areas(ids: tuple[int, ...]) -> str:
    return f"area(?:{'|'.join(map(str, ids))})"


def _split_of(stem: str) -> str:
    return "train" if int(stem.lower().removeprefix("area")) in TRAIN else "val"


_TOP = "top_mosaic_09cm_{stem}.tif"
_ERODED = "top_mosaic_09cm_{stem}_noBoundary.tif"
_PAINTED = Painted(CLASSES.palette, _BOUNDARY)

CONVERTED = Layout(
    title="as MMSegmentation converts it",
    places=(Place("img_dir/train", "ann_dir/train", "train"), Place("img_dir/val", "ann_dir/val", "val")),
    image=("{stem}.png",),
    mask=("{stem}.png",),
    labels=Numbered(
        shifted(6), "0 is the boundary, 1 to 6 are the classes; painted labels belong in the release's layout"
    ),
    classes=CLASSES,
    published={"train": 344, "val": 398},
)

RELEASES = (
    Layout(
        title="the release with all labels (eroded ones go first)",
        places=(Place("top", "gts"),),
        image=(_TOP,),
        mask=(_ERODED, _TOP),
        labels=_PAINTED,
        classes=CLASSES,
        stem=_areas((*TRAIN, *VAL)),
        split_of=_split_of,
        published={"train": 16, "val": 17},
    ),
    Layout(
        title="the release with the participants' labels, train only",
        places=(Place("top", "gts_for_participants"),),
        image=(_TOP,),
        mask=(_TOP,),
        labels=_PAINTED,
        classes=CLASSES,
        stem=_areas(TRAIN),
        split_of=_split_of,
        published={"train": 16},
        passed_over=_TOP.format(stem=_areas(VAL)),
    ),
)
