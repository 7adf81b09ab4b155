"""Colours are distinct, fixed and checked."""

from __future__ import annotations

import numpy as np
import pytest

from stagekit.data.palette import VOID, check_palette, default_palette
from stagekit.errors import DatasetError


def test_colours_are_distinct_up_to_the_most_classes_there_can_be() -> None:
    palette = np.array(default_palette(255), dtype=int)
    apart = np.abs(palette[:, None] - palette[None]).sum(axis=2)
    np.fill_diagonal(apart, 999)
    assert apart.min() >= 20
    assert np.abs(palette - np.array(VOID)).sum(axis=1).min() >= 20


def test_few_colours_are_far_apart() -> None:
    palette = np.array(default_palette(20), dtype=int)
    apart = np.linalg.norm(palette[:, None] - palette[None], axis=2)
    np.fill_diagonal(apart, 999)
    assert apart.min() >= 60


def test_adding_a_class_keeps_the_others_colours() -> None:
    assert default_palette(30)[:12] == default_palette(12)


@pytest.mark.parametrize("classes", [0, -1, 256])
def test_the_number_of_classes_is_bounded(classes: int) -> None:
    with pytest.raises(DatasetError, match="expected 1 to 255"):
        default_palette(classes)


@pytest.mark.parametrize(
    ("palette", "message"),
    [
        ([(0, 0)], "three numbers"),
        ([(0, 0, 256)], "three numbers"),
        ([(1, 2, 3), (4, 5, 6), (1, 2, 3)], "classes 0 and 2 have the same colour"),
        ([], "0 classes"),
    ],
)
def test_a_palette_that_cannot_be_read_back_is_refused(palette: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        check_palette(palette)


def test_lists_from_json_become_a_palette() -> None:
    assert check_palette([[1, 2, 3], [4, 5, 6]]) == ((1, 2, 3), (4, 5, 6))
