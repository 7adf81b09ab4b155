"""Sizes that cover a frame, against MMCV's arithmetic, and labels against a search for the nearest centre."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from stagekit.data.rescale import cover, rescale, rescale_labels

sides = st.integers(1, 300)


@given(sides, sides, st.integers(1, 200))
def test_of_a_square_frame_the_short_side_is_met_as_in_mmcv(height: int, width: int, side: int) -> None:
    """``mmcv.rescale_size`` with scale (inf, side): ``int(x * factor + 0.5)``; exact here, where a float may miss."""
    factor = side / min(height, width)
    expected = int(height * factor + 0.5), int(width * factor + 0.5)
    found = cover((height, width), (side, side))
    assert min(found) == side
    for ours, theirs, length in zip(found, expected, (height, width), strict=True):
        assert ours == theirs or abs(length * factor - ours) <= 0.5 + 1e-9


@given(sides, sides, sides, sides)
def test_a_frame_is_covered_with_nothing_to_spare(height: int, width: int, rows: int, columns: int) -> None:
    found = cover((height, width), (rows, columns))
    assert found[0] >= rows
    assert found[1] >= columns
    assert found[0] == rows or found[1] == columns
    factor = max(rows / height, columns / width)
    assert abs(found[0] - height * factor) <= 0.5 + 1e-9
    assert abs(found[1] - width * factor) <= 0.5 + 1e-9


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_labels_are_those_of_the_nearest_centre(height: int, width: int, rows: int, columns: int) -> None:
    labels = np.arange(height * width, dtype=np.uint8).reshape(height, width)
    found = rescale_labels(labels, rows, columns)
    for row in range(rows):
        for column in range(columns):
            y, x = divmod(int(found[row, column]), width)
            wanted_y, wanted_x = (row + 0.5) * height / rows, (column + 0.5) * width / columns
            assert abs(y + 0.5 - wanted_y) <= 0.5 + 1e-9
            assert abs(x + 0.5 - wanted_x) <= 0.5 + 1e-9


def test_an_image_of_that_size_is_itself() -> None:
    image = np.zeros((3, 4, 3), dtype=np.uint8)
    assert rescale(image, 3, 4) is image
