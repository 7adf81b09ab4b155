"""Segmentation metrics in numpy, as MMSegmentation defines them.

Every number comes from one confusion matrix over all pixels of all images: never a mean of per-image values.
A class that occurs in neither truth nor prediction has no value (nan) and is left out of a mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from stagekit.data.palette import IGNORE
from stagekit.errors import DatasetError, ImageError

Scores = NDArray[np.float64]


class Confusion:
    """Pixels counted by true and predicted class.

    Pixels whose truth is ``ignore`` do not count. Where truth counts and the prediction is ``ignore`` (a part of
    the image that a crop cut off), the class is missed and no other class is charged with it.

    Args:
        classes: how many.
        ignore: the label of pixels that do not count.
    """

    def __init__(self, classes: int, ignore: int = IGNORE) -> None:
        self.classes = classes
        self.ignore = ignore
        self._counts = np.zeros((classes, classes + 1), dtype=np.int64)

    @property
    def matrix(self) -> NDArray[np.int64]:
        """int64 (classes, classes): rows are truth, columns prediction."""
        matrix: NDArray[np.int64] = self._counts[:, :-1].copy()
        return matrix

    def update(self, prediction: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Count the pixels of two label arrays of one shape.

        Raises:
            ImageError: when the shapes differ.
            DatasetError: when a label is neither a class nor ``ignore``.
        """
        if prediction.shape != truth.shape:
            raise ImageError(
                f"prediction {prediction.shape} and truth {truth.shape} differ in size",
                remedy="bring the prediction to the image's size: Placement.labels_to_image",
            )
        counted = truth != self.ignore
        true, predicted = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
        predicted = np.where(predicted == self.ignore, self.classes, predicted)
        for labels, name, limit in ((true, "truth", self.classes), (predicted, "prediction", self.classes + 1)):
            if labels.size and not 0 <= labels.min() <= labels.max() < limit:
                raise DatasetError(
                    f"labels of the {name} run from {labels.min()} to {labels.max()}, expected 0..{self.classes - 1}",
                    remedy=f"check the number of classes; pixels of no class are {self.ignore}",
                )
        flat = np.bincount(true * (self.classes + 1) + predicted, minlength=self._counts.size)
        self._counts += flat.reshape(self._counts.shape)

    def iou(self) -> Scores:
        """Intersection over union of each class: float64 (classes,), TP / (TP + FP + FN)."""
        hit, true, predicted = self._sums()
        return _ratio(hit, true + predicted - hit)

    def miou(self) -> float:
        """Mean of ``iou`` over the classes that occur; nan when none does."""
        return _mean(self.iou())

    def dice(self) -> Scores:
        """Dice coefficient (F1) of each class: float64 (classes,), 2 TP / (2 TP + FP + FN)."""
        hit, true, predicted = self._sums()
        return _ratio(2 * hit, true + predicted)

    def accuracy(self) -> float:
        """Share of counted pixels that are right; nan when none was counted."""
        hit, true, _ = self._sums()
        return float(_ratio(hit.sum(keepdims=True), true.sum(keepdims=True))[0])

    def _sums(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Of each class: true positives, pixels of it in truth, pixels of it in prediction."""
        return np.diagonal(self._counts), self._counts.sum(axis=1), self._counts.sum(axis=0)[:-1]


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> Scores:
    ratio: Scores = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(scores: Scores) -> float:
    """Without nan, and without numpy's warning when nothing is left."""
    known = scores[~np.isnan(scores)]
    return float(known.mean()) if known.size else float("nan")
