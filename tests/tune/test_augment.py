"""Augmentation: image and labels move together, and nothing is invented."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from stagekit.data.images import Pixels
from stagekit.tune.augment import Augment
from stagekit.tune.sections import AugmentSection

FILL = (127, 127, 127)


def augment(size: tuple[int, int] = (24, 32), **options: Any) -> Augment:
    return Augment(AugmentSection(**options), size, FILL)


@pytest.fixture
def drawn() -> tuple[Pixels, Pixels]:
    """Blocks of 8 pixels, each label painted in a grey of its own."""
    labels = np.random.default_rng(0).integers(0, 6, (5, 6)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return np.repeat((labels * 40)[..., None], 3, axis=2), labels


def test_without_options_nothing_changes(drawn: tuple[Pixels, Pixels]) -> None:
    image, labels = (array[:24, :32] for array in drawn)
    result = augment()(image, labels, np.random.default_rng(0))
    assert np.array_equal(result[0], image)
    assert np.array_equal(result[1], labels)


def test_flips_mirror_half_the_time(drawn: tuple[Pixels, Pixels]) -> None:
    image, labels = (array[:24, :32] for array in drawn)
    seen = {"same": 0, "right": 0, "down": 0, "both": 0}
    mirrored = {"same": labels, "right": labels[:, ::-1], "down": labels[::-1], "both": labels[::-1, ::-1]}
    for seed in range(400):
        frame, moved = augment(flip=True, flip_vertical=True)(image, labels, np.random.default_rng(seed))
        name = next(name for name, expected in mirrored.items() if np.array_equal(moved, expected))
        seen[name] += 1
        assert np.array_equal(frame[..., 0], moved * 40)
    assert all(70 < count < 140 for count in seen.values())


def test_a_crop_at_scale_1_is_a_copy_of_part_of_the_image(drawn: tuple[Pixels, Pixels]) -> None:
    image, labels = drawn
    noise = np.random.default_rng(1).integers(0, 256, image.shape).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(noise, (24, 32), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    places = set()
    for seed in range(50):
        frame, moved = augment(crop=True)(noise, labels, np.random.default_rng(seed))
        ((top, left),) = np.argwhere((windows == frame).all(axis=(2, 3, 4)))
        assert np.array_equal(moved, labels[top : top + 24, left : left + 32])
        places.add((int(top), int(left)))
    assert len(places) > 30


def test_image_and_labels_go_through_one_map(drawn: tuple[Pixels, Pixels]) -> None:
    image, labels = drawn
    for seed in range(20):
        options = augment(flip=True, rotate=0.5, scale=(0.7, 1.4), crop=True)
        frame, moved = options(image, labels, np.random.default_rng(seed))
        kept = moved != 255
        agree = np.abs(frame[..., 0].astype(int) - moved.astype(int) * 40) < 20
        assert agree[kept].mean() > 0.85  # interpolation mixes greys at the edges of blocks
        assert set(np.unique(moved)) <= {0, 1, 2, 3, 4, 5, 255}


def test_outside_the_image_is_the_mean_colour_without_a_label() -> None:
    image, labels = np.zeros((24, 32, 3), np.uint8), np.zeros((24, 32), np.uint8)
    frame, moved = augment(scale=(0.5, 0.5))(image, labels, np.random.default_rng(0))
    assert moved[0, 0] == 255
    assert frame[0, 0].tolist() == list(FILL)
    assert 0.2 < (moved == 0).mean() < 0.3


def test_brightness_scales_all_channels_alike_and_leaves_labels(drawn: tuple[Pixels, Pixels]) -> None:
    image, labels = (array[:24, :32] for array in drawn)
    frame, moved = augment(brightness=0.2)(image, labels, np.random.default_rng(3))
    gain = frame[image > 0].astype(float) / image[image > 0]
    assert gain.max() - gain.min() < 0.03
    assert 0.78 < gain.mean() < 1.22
    assert np.array_equal(moved, labels)


def test_a_generator_decides_everything(drawn: tuple[Pixels, Pixels]) -> None:
    options = augment(flip=True, rotate=0.3, scale=(0.8, 1.2), brightness=0.2, crop=True)
    first, again = (options(*drawn, np.random.default_rng(7)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
