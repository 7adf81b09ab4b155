"""Retinal vessels: CHASE-DB1, STARE and HRF, the first observer's masks."""

from __future__ import annotations

from dataclasses import replace

from stagekit.data.classes import Classes
from stagekit.data.layouts.labels import BlackAndWhite, Numbered
from stagekit.data.layouts.layout import Layout, Place

_CLASSES = Classes(names=("background", "vessel"), palette=((120, 120, 120), (6, 230, 230)))
# Without an ignore label: a 255 in a converted mask is a vessel that nobody divided by 128, and must not vanish.
_NUMBERED = Numbered({0: 0, 1: 1}, "1 is vessel; black and white masks belong in the release's layout")
_CONVERTED = (
    Place("images/training", "annotations/training", "train"),
    Place("images/validation", "annotations/validation", "val"),
)

_CHASE_CLASSES = replace(
    _CLASSES,
    source="CHASE_DB1, Kingston University London: Fraz et al., IEEE Trans. Biomed. Eng. 59(9), 2012; observer 1",
    license="As Kingston University's page of the data set states",
)
_STARE_CLASSES = replace(
    _CLASSES,
    source="STARE, Clemson University: Hoover et al., IEEE Trans. Med. Imaging 19(3), 2000; observer Adam Hoover",
    license="Offered for research; its page states no licence",
)
_HRF_CLASSES = replace(
    _CLASSES,
    source="High-Resolution Fundus images, FAU Erlangen: Budai et al., Int. J. Biomed. Imaging 2013",
    license="CC BY 4.0",
)


def _chase_split(stem: str) -> str:
    """Both eyes of the first ten children, 01L to 10R, as MMSegmentation's first twenty files."""
    return "train" if int(stem[-3:-1]) <= 10 else "val"


STARE_TRAIN = frozenset({1, 2, 3, 4, 5, 44, 77, 81, 82, 139})
"""The first ten of the twenty labelled images by number; then come 162, 163, 235, 236, 239, 240, 255, 291, 319, 324."""


def _stare_split(stem: str) -> str:
    return "train" if int(stem[-4:]) in STARE_TRAIN else "val"


def _hrf_split(stem: str) -> str:
    """The first five of each of healthy, glaucoma and diabetic retinopathy."""
    return "train" if int(stem[:2]) <= 5 else "val"


CHASE = (
    Layout(
        title="as MMSegmentation converts it",
        places=_CONVERTED,
        image=("{stem}.png",),
        mask=("{stem}_1stHO.png",),
        labels=_NUMBERED,
        classes=_CHASE_CLASSES,
        published={"train": 20, "val": 8},
    ),
    Layout(
        title="CHASEDB1.zip, unpacked",
        places=(Place(".", "."),),
        image=("{stem}.jpg",),
        mask=("{stem}_1stHO.png",),
        labels=BlackAndWhite(),
        classes=_CHASE_CLASSES,
        stem=r"Image_\d\d[LR]",
        split_of=_chase_split,
        published={"train": 20, "val": 8},
        passed_over=r"Image_\d\d[LR]_2ndHO\.png",
    ),
)

STARE = (
    Layout(
        title="as MMSegmentation converts it",
        places=_CONVERTED,
        image=("{stem}.png",),
        mask=("{stem}.ah.png",),
        labels=_NUMBERED,
        classes=_STARE_CLASSES,
        published={"train": 10, "val": 10},
    ),
    Layout(
        title="stare-images.tar and labels-ah.tar, each unpacked into a folder of its name",
        places=(Place("stare-images", "labels-ah"),),
        image=("{stem}.ppm.gz", "{stem}.ppm"),
        mask=("{stem}.ah.ppm.gz", "{stem}.ah.ppm"),
        labels=BlackAndWhite(),
        classes=_STARE_CLASSES,
        stem=r"im\d{4}",
        split_of=_stare_split,
        published={"train": 10, "val": 10},
    ),
)

HRF = (
    Layout(
        title="as MMSegmentation converts it",
        places=_CONVERTED,
        image=("{stem}.png",),
        mask=("{stem}.png",),
        labels=_NUMBERED,
        classes=_HRF_CLASSES,
        published={"train": 15, "val": 30},
    ),
    Layout(
        title="all.zip, unpacked",
        places=(Place("images", "manual1"),),
        image=("{stem}.jpg",),
        mask=("{stem}.tif",),
        labels=BlackAndWhite(),
        classes=_HRF_CLASSES,
        stem=r"\d\d_(?:h|g|dr)",
        split_of=_hrf_split,
        published={"train": 15, "val": 30},
    ),
)
