"""Large images as tiles: every pixel once or more, each image decoded once."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stagekit.data.classes import Classes
from stagekit.data.folder import Folder, Sample, write_folder
from stagekit.data.images import Pixels
from stagekit.data.layouts import vaihingen
from stagekit.data.tiling import Tile, Tiled, tiles
from stagekit.errors import DatasetError, UsageError

CLASSES = Classes(("even", "odd"), ((0, 0, 255), (0, 255, 0)))

# Width and height of the areas' orthophotos, as published.
AREAS = {
    **dict.fromkeys((4, 5, 6, 7, 8, 10), (1887, 2557)),
    **dict.fromkeys((14, 15, 16), (1919, 2565)),
    **dict.fromkeys((21, 22, 23, 24), (1903, 2546)),
    **dict.fromkeys((31, 32), (1980, 2555)),
    1: (1919, 2569),
    2: (2428, 2767),
    3: (2006, 3007),
    11: (1893, 2566),
    12: (1922, 2575),
    13: (2818, 2558),
    17: (2336, 1281),
    20: (1866, 2315),
    26: (2995, 1783),
    27: (1917, 3313),
    28: (1917, 2567),
    29: (1917, 2563),
    30: (1934, 2563),
    33: (1581, 2555),
    34: (1388, 2555),
    35: (2805, 1884),
    37: (1996, 1995),
    38: (3816, 2550),
}


class Measured(Folder):
    """A folder whose images' sizes are known."""

    reads: int = 0

    def read(self, stem: str) -> Sample:
        type(self).reads += 1
        return super().read(stem)

    def shape(self, stem: str) -> tuple[int, int]:
        height, width = super().read(stem).mask.shape
        return height, width


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[Measured]:
    def image(stem: str, height: int, width: int) -> Sample:
        ramp: Pixels = (np.arange(height * width * 3) % 251).astype(np.uint8).reshape(height, width, 3)
        return Sample(stem, ramp, (ramp[..., 0] % 2).astype(np.uint8))

    parts = [("train", image("a1", 50, 70)), ("train", image("a10", 32, 32)), ("val", image("a2", 20, 40))]
    folder = write_folder(tmp_path / "set", CLASSES, parts)
    Measured.reads = 0
    yield Measured(folder.root, folder.classes)


@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 40), overlap=st.integers(0, 39))
def test_tiles_cover_every_pixel_and_stay_inside(height: int, width: int, size: int, overlap: int) -> None:
    boxes = tiles(height, width, size, max(1, size - overlap))
    seen = np.zeros((height, width), dtype=int)
    for top, left, bottom, right in boxes:
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        assert (bottom - top, right - left) == (min(size, height), min(size, width))
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    assert len(set(boxes)) == len(boxes)


@given(height=st.integers(512, 3900), width=st.integers(512, 3900))
def test_at_a_stride_of_the_size_tiles_are_those_of_the_published_converter(height: int, width: int) -> None:
    # Its formula: corner k * 512 for k up to the count that a stride of 256 needs, moved back where it overhangs.
    def corners(length: int) -> set[int]:
        return {min(k * 512, length - 512) for k in range(-(-(length - 512) // 256) + 1)}

    expected = {(y, x, y + 512, x + 512) for y in corners(height) for x in corners(width)}
    assert set(tiles(height, width, 512, 512)) == expected


def test_the_published_areas_give_344_and_398_tiles() -> None:
    def count(areas: tuple[int, ...]) -> int:
        return sum(len(tiles(AREAS[a][1], AREAS[a][0], vaihingen.TILE, vaihingen.STRIDE)) for a in areas)

    assert (count(vaihingen.TRAIN), count(vaihingen.VAL)) == (344, 398)


def test_a_stride_that_leaves_gaps_is_refused() -> None:
    assert tiles(10, 10, 4, 4)[-1] == Tile(6, 6, 10, 10)
    for stride in (0, -1, 5):
        with pytest.raises(UsageError, match="do not cover"):
            tiles(10, 10, 4, stride)


def test_a_tile_is_the_named_part_of_its_image(whole: Measured) -> None:
    tiled = Tiled(whole, size=32, stride=32)
    assert tiled.splits["val"] == ("a2_0_0_32_20", "a2_8_0_40_20")
    assert "a1_38_18_70_50" in tiled.splits["train"]
    assert tiled.stems() == tuple(sorted(tiled.stems()))
    image, mask = whole.read("a1").image, whole.read("a1").mask
    sample = tiled.read("a1_38_18_70_50")
    assert np.array_equal(sample.image, image[18:50, 38:70])
    assert np.array_equal(sample.mask, mask[18:50, 38:70])
    assert sample.image.base is None, "a view would keep the whole image alive"


def test_reading_in_order_decodes_each_image_once(whole: Measured) -> None:
    tiled = Tiled(whole, size=16, stride=8)
    assert sum(1 for _ in tiled.samples()) == len(tiled.stems()) > 20
    assert Measured.reads == 3
    Measured.reads = 0
    tiled.check()
    assert Measured.reads == 3


def test_frequencies_count_what_tiles_show(whole: Measured) -> None:
    tiled = Tiled(whole, size=20, stride=20)
    assert tiled.class_frequencies("val") == pytest.approx(whole.class_frequencies("val"))
    assert tiled.class_frequencies().sum() == pytest.approx(1)


def test_unknown_tiles_and_splits_are_errors(whole: Measured) -> None:
    tiled = Tiled(whole, size=32, stride=32)
    with pytest.raises(DatasetError, match="no tile"):
        tiled.read("a1_1_1_33_33")
    with pytest.raises(DatasetError, match="there are: train, val"):
        tiled.stems("test")


def test_a_loaders_worker_can_be_sent_tiles(whole: Measured) -> None:
    tiled = Tiled(whole, size=32, stride=32)
    assert pickle.loads(pickle.dumps(tiled)).stems() == tiled.stems()
