"""The order of images: a function of seed and index, whoever loads."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter

import pytest
import torch

from stagekit.data.folder import Folder
from stagekit.data.geometry import Geometry
from stagekit.tune.augment import Augment
from stagekit.tune.batches import Batches, Images, Order, load
from stagekit.tune.recipe import AugmentSection

RANDOM = AugmentSection(flip=True, rotate=0.3, scale=(0.8, 1.2), brightness=0.2)


@pytest.fixture
def batches(folder: Folder) -> Batches:
    images = Images(folder, "train", Geometry(24, 32))
    return Batches(images, Augment(RANDOM, (24, 32), (127, 127, 127)), 3, seed=5)


def test_every_image_comes_once_an_epoch_in_a_new_order() -> None:
    order = Order(images=8, batch=3, seed=0)
    positions = [position for index in range(8) for _, position in order.places(index)]
    epochs = [positions[8 * e : 8 * e + 8] for e in range(3)]
    assert all(Counter(epoch) == Counter(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert Order(8, 3, seed=1).places(0) != order.places(0)


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
