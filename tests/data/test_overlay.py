"""Pictures show the colours they promise, where they promise."""

from __future__ import annotations

import numpy as np
import pytest

from stagekit.data.overlay import contours, legend, overlay, paint, side_by_side, stacked, titles
from stagekit.data.palette import VOID, default_palette
from stagekit.errors import ImageError

PALETTE = ((255, 0, 0), (0, 0, 255))


def test_regions_are_tinted_and_outlines_opaque() -> None:
    image = np.full((4, 6, 3), 100, dtype=np.uint8)
    labels = np.zeros((4, 6), dtype=np.uint8)
    labels[:, 3:] = 1
    shown = overlay(image, labels, PALETTE, alpha=0.5)
    assert shown[0, 0].tolist() == [178, 50, 50]
    assert (shown[:, 3] == PALETTE[1]).all()
    assert shown[0, 5].tolist() == [50, 50, 178]
    assert (image == 100).all()


def test_unlabelled_pixels_keep_the_images_colour() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    labels = np.full((4, 4), 255, dtype=np.uint8)
    labels[0, 0] = 7
    assert np.array_equal(overlay(image, labels, PALETTE, alpha=1), image)


def test_alpha_runs_from_image_to_paint() -> None:
    image = np.full((3, 3, 3), 10, dtype=np.uint8)
    labels = np.ones((3, 3), dtype=np.uint8)
    assert np.array_equal(overlay(image, labels, PALETTE, alpha=0), image)
    assert np.array_equal(overlay(image, labels, PALETTE, alpha=1), paint(labels, PALETTE))


def test_sizes_must_agree() -> None:
    with pytest.raises(ImageError, match="do not lie over"):
        overlay(np.zeros((2, 3, 3), dtype=np.uint8), np.zeros((3, 2), dtype=np.uint8), PALETTE)


def test_contours_lie_between_regions_one_pixel_thick() -> None:
    labels = np.zeros((5, 5), dtype=np.uint8)
    labels[2:, 2:] = 1
    expected = np.zeros((5, 5), dtype=bool)
    expected[2, 2:] = expected[2:, 2] = True
    assert np.array_equal(contours(labels), expected)
    assert not contours(np.full((3, 3), 4, dtype=np.uint8)).any()


def test_paint_gives_void_to_what_is_no_class() -> None:
    assert paint(np.array([[0, 2, 255]], dtype=np.uint8), PALETTE).tolist() == [[[255, 0, 0], list(VOID), list(VOID)]]


def test_a_legend_holds_every_colour_and_grows_with_its_names() -> None:
    palette = default_palette(12)
    few, many = legend(["sea", "land"], palette[:2]), legend([f"class number {i}" for i in range(12)], palette)
    assert few.shape == (18, 224, 3)
    assert many.shape[1] == 224
    assert many.shape[0] > few.shape[0]
    for color in palette:
        assert (many == color).all(axis=2).sum() >= 80


def test_images_are_arranged_on_white() -> None:
    small, large = np.zeros((2, 3, 3), dtype=np.uint8), np.full((4, 5, 3), 9, dtype=np.uint8)
    row, column = side_by_side([small, large], gap=2), stacked([small, large], gap=2)
    assert row.shape == (4, 10, 3)
    assert column.shape == (8, 5, 3)
    assert np.array_equal(row[:2, :3], small)
    assert np.array_equal(row[:, 5:], large)
    assert (row[2:, :3] == 255).all()
    assert np.array_equal(column[4:], large)
    with pytest.raises(ImageError):
        side_by_side([])


def test_titles_stand_over_their_columns() -> None:
    strip = titles(["first", "second"], [60, 40], gap=4)
    assert strip.shape == (18, 104, 3)
    dark = (strip.min(axis=2) < 128).any(axis=0)
    assert dark[:60].any()
    assert not dark[58:64].any()
    assert dark[64:].any()
