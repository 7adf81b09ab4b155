"""The order of images: a function of seed and index, whoever loads."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from stagekit.data.folder import Folder
from stagekit.data.geometry import Resize
from stagekit.data.images import Pixels
from stagekit.tune.augment import Augment
from stagekit.tune.batches import Batches, Fit, Images, Order, load
from stagekit.tune.sections import AugmentSection

RANDOM = AugmentSection(flip=True, rotate=0.3, scale=(0.8, 1.2), brightness=0.2)


@pytest.fixture
def batches(folder: Folder) -> Batches:
    images = Images(folder, "train", Fit((24, 32)))
    return Batches(images, Augment(RANDOM, (24, 32), (127, 127, 127)), 3, seed=5)


def test_every_image_comes_once_an_epoch_in_a_new_order() -> None:
    order = Order(images=8, batch=3, seed=0)
    positions = [position for index in range(8) for _, position in order.places(index)]
    epochs = [positions[8 * e : 8 * e + 8] for e in range(3)]
    assert all(Counter(epoch) == Counter(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert Order(8, 3, seed=1).places(0) != order.places(0)


def test_images_are_fitted_as_the_recipe_says(folder: Folder) -> None:
    """36 x 44 into 24 x 32, by Pillow: stretched; 29 columns between bars; 26 rows of which the middle 24 remain."""
    image, labels = folder.read("image00")[1:]

    def resized(pixels: Pixels, height: int, width: int) -> Pixels:
        how = Image.Resampling.BILINEAR if pixels.ndim == 3 else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(pixels).resize((width, height), how))

    def first(resize: Resize, *, windows: bool = False) -> tuple[Pixels, Pixels]:
        return Images(folder, "train", Fit((24, 32), resize, windows))[0]

    for index, pixels in enumerate((image, labels)):
        bars = 0 if index == 0 else 255
        assert np.array_equal(first("stretch")[index], resized(pixels, 24, 32))
        letterbox = first("letterbox")[index]
        assert np.array_equal(letterbox[:, 1:30], resized(pixels, 24, 29))
        assert (letterbox[:, [0, 30, 31]] == bars).all()
        assert np.array_equal(first("crop")[index], resized(pixels[1:34], 24, 32))
        assert np.array_equal(first("stretch", windows=True)[index], pixels)
        assert np.array_equal(first("crop", windows=True)[index], resized(pixels, 26, 32))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_its_index_alone(batches: Batches, workers: int) -> None:
    whole = list(load(batches, 0, 5, 0))
    tail = list(load(batches, 3, 5, workers))
    assert [frames.shape for frames, _ in whole] == [(3, 24, 32, 3)] * 5
    for (frames, labels), (again, labels_again) in zip(whole[3:], tail, strict=True):
        assert torch.equal(frames, again)
        assert torch.equal(labels, labels_again)


def test_loading_leaves_the_global_generator_alone(batches: Batches) -> None:
    before = torch.get_rng_state()
    list(load(batches, 0, 2, 0))
    assert torch.equal(torch.get_rng_state(), before)


def test_one_image_is_augmented_anew_each_time(batches: Batches) -> None:
    numbers = [(n, p) for index in range(6) for n, p in batches.order.places(index) if p == 2]
    first, second = (batches[n // 3][0][n % 3] for n, _ in numbers)
    assert not torch.equal(first, second)


def test_loaders_outlive_an_interrupt_that_is_meant_for_the_loop(batches: Batches) -> None:
    loaded = load(batches, 0, 40, 1)
    next(loaded)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    for _ in range(2):
        os.kill(worker.pid, signal.SIGINT)
    assert len(list(loaded)) == 39
