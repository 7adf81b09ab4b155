"""Metrics against torchmetrics, and against counting pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stagekit.data.metrics import Confusion
from stagekit.errors import DatasetError, ImageError

CLASSES = 4
Labels = NDArray[np.uint8]
truths = st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=1, max_size=60)


def counted(prediction: Labels, truth: Labels, classes: int = CLASSES) -> Confusion:
    confusion = Confusion(classes)
    confusion.update(prediction, truth)
    return confusion


def maps(seed: int, classes: int) -> tuple[Labels, Labels]:
    random = np.random.default_rng(seed)
    truth = random.integers(0, classes, (3, 20, 30)).astype(np.uint8)
    prediction = np.where(random.random(truth.shape) < 0.6, truth, random.integers(0, classes, truth.shape))
    truth[random.random(truth.shape) < 0.1] = 255
    return prediction.astype(np.uint8), truth


@settings(max_examples=300, deadline=None)
@given(st.data(), truths)
def test_scores_equal_counting_by_hand(data: st.DataObject, truth: list[int]) -> None:
    prediction = data.draw(st.lists(st.sampled_from([0, 1, 2, 3, 255]), min_size=len(truth), max_size=len(truth)))
    confusion = counted(np.array(prediction, dtype=np.uint8), np.array(truth, dtype=np.uint8))
    pairs = [(p, t) for p, t in zip(prediction, truth, strict=True) if t != 255]
    ious = []
    for label in range(CLASSES):
        both = sum(p == label and t == label for p, t in pairs)
        either = sum(p == label or t == label for p, t in pairs)
        size = sum(p == label for p, _ in pairs) + sum(t == label for _, t in pairs)
        if either == 0:
            assert math.isnan(confusion.iou()[label])
            assert math.isnan(confusion.dice()[label])
        else:
            ious.append(both / either)
            assert confusion.iou()[label] == pytest.approx(both / either)
            assert confusion.dice()[label] == pytest.approx(2 * both / size)
    if pairs:
        assert confusion.miou() == pytest.approx(sum(ious) / len(ious))
        assert confusion.accuracy() == pytest.approx(sum(p == t for p, t in pairs) / len(pairs))
    else:
        assert math.isnan(confusion.miou())
        assert math.isnan(confusion.accuracy())


@pytest.mark.parametrize("classes", [2, 3, 7, 150])
def test_scores_equal_torchmetrics(classes: int) -> None:
    torch = pytest.importorskip("torch")
    classification = pytest.importorskip("torchmetrics.classification")
    prediction, truth = maps(classes, classes)
    confusion = counted(prediction, truth, classes)
    # torchmetrics wants the ignored label outside of the classes as well, so both take int64.
    pair = torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    options = {"num_classes": classes, "ignore_index": 255}
    iou = classification.MulticlassJaccardIndex(average=None, **options)(*pair).numpy()
    dice = classification.MulticlassF1Score(average=None, **options)(*pair).numpy()
    matrix = classification.MulticlassConfusionMatrix(**options)(*pair).numpy()
    accuracy = float(classification.MulticlassAccuracy(average="micro", **options)(*pair))
    assert np.array_equal(confusion.matrix, matrix)
    np.testing.assert_allclose(confusion.iou(), iou, atol=1e-6)
    np.testing.assert_allclose(confusion.dice(), dice, atol=1e-6)
    assert confusion.miou() == pytest.approx(float(iou.mean()), abs=1e-6)
    assert confusion.accuracy() == pytest.approx(accuracy, abs=1e-6)


def test_a_class_that_occurs_nowhere_is_left_out_of_the_mean() -> None:
    confusion = counted(np.array([0, 0, 1]), np.array([0, 1, 1]), classes=3)
    assert confusion.iou()[:2] == pytest.approx([0.5, 0.5])
    assert math.isnan(confusion.iou()[2])
    assert confusion.miou() == pytest.approx(0.5)


def test_a_class_that_is_only_predicted_scores_zero() -> None:
    confusion = counted(np.array([0, 2]), np.array([0, 0]), classes=3)
    assert confusion.iou()[2] == 0
    assert confusion.miou() == pytest.approx((0.5 + 0) / 2)


def test_ignored_truth_does_not_count_and_an_unseen_pixel_is_a_miss() -> None:
    confusion = counted(np.array([1, 0, 255]), np.array([255, 0, 0]), classes=2)
    assert confusion.matrix.tolist() == [[1, 0], [0, 0]]
    assert confusion.iou()[0] == pytest.approx(0.5)
    assert confusion.accuracy() == pytest.approx(0.5)


def test_a_score_is_of_all_images_together() -> None:
    (first, first_truth), (second, second_truth) = maps(0, 5), maps(1, 5)
    together = counted(np.concatenate([first, second]), np.concatenate([first_truth, second_truth]), 5)
    one_by_one = counted(first, first_truth, 5)
    one_by_one.update(second, second_truth)
    assert np.array_equal(one_by_one.matrix, together.matrix)
    assert one_by_one.miou() == together.miou()


def test_labels_outside_the_classes_and_unequal_sizes_are_refused() -> None:
    with pytest.raises(DatasetError, match="truth run from 0 to 4"):
        counted(np.array([0, 0]), np.array([0, 4]))
    with pytest.raises(DatasetError, match="prediction run from 0 to 9"):
        counted(np.array([0, 9]), np.array([0, 1]))
    with pytest.raises(ImageError, match="differ in size"):
        counted(np.zeros((2, 2), dtype=np.uint8), np.zeros((2, 3), dtype=np.uint8))
