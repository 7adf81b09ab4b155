"""Labels of whole images from a network in torch: stretched to the frame, or by a sliding window."""

from __future__ import annotations

from itertools import product

import numpy as np
import torch
from torch import Tensor

from stagekit.data.geometry import Geometry
from stagekit.data.images import Pixels
from stagekit.models.pooling import resize
from stagekit.models.prompted import PromptedNetwork
from stagekit.tune.recipe import EvaluateSection
from stagekit.tune.score import Predict

WINDOWS = 8
"""Windows that run as one batch."""


def predictor(network: PromptedNetwork, section: EvaluateSection) -> Predict:
    """How the recipe predicts an image, in float32, the precision that metrics are stated for."""
    if section.mode == "whole":
        return whole_image(network)
    height, width = network.backbone.size
    return sliding_window(network, section.stride or (max(height * 2 // 3, 1), max(width * 2 // 3, 1)))


def whole_image(network: PromptedNetwork) -> Predict:
    """The image stretched to the frame; labels by a nearest look-up in the frame's, as a session gives them."""
    geometry = Geometry(*network.backbone.size)

    def predict(image: Pixels) -> Pixels:
        frame, placement = geometry.apply(image)
        labels = _logits(network, frame[None]).argmax(dim=1)[0]
        return placement.labels_to_image(labels.to("cpu", torch.uint8).numpy())

    return predict


def sliding_window(network: PromptedNetwork, stride: tuple[int, int]) -> Predict:
    """A window of the frame's size moves over the image at its own resolution; logits are averaged.

    As MMSegmentation's ``slide``: the last window of a row or column is moved back so that it ends at the border.
    Images smaller than the window are padded at the right and the bottom with the mean colour.
    """
    height, width = network.backbone.size
    mean = np.rint(np.array(network.backbone.preprocessing.mean)).astype(np.uint8)

    def predict(image: Pixels) -> Pixels:
        rows, columns = image.shape[:2]
        padded = np.empty((max(rows, height), max(columns, width), 3), dtype=np.uint8)
        padded[:] = mean
        padded[:rows, :columns] = image
        corners = list(
            product(window_starts(padded.shape[0], height, stride[0]), window_starts(padded.shape[1], width, stride[1]))
        )
        total = torch.zeros(network.head.classes, *padded.shape[:2])
        visits = torch.zeros(padded.shape[:2])
        for first in range(0, len(corners), WINDOWS):
            some = corners[first : first + WINDOWS]
            windows = np.stack([padded[top : top + height, left : left + width] for top, left in some])
            for (top, left), logits in zip(some, _logits(network, windows).cpu(), strict=True):
                total[:, top : top + height, left : left + width] += logits
                visits[top : top + height, left : left + width] += 1
        labels = (total / visits).argmax(dim=0)[:rows, :columns]
        return labels.to(torch.uint8).numpy()

    return predict


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side of at least ``window`` pixels: every ``stride``, the last at the end."""
    count = max(length - window + stride - 1, 0) // stride + 1
    return [min(index * stride, length - window) for index in range(count)]


@torch.no_grad()
def _logits(network: PromptedNetwork, frames: Pixels) -> Tensor:
    """(batch, classes, height, width) at the frames' resolution, in evaluation mode."""
    training = network.training
    network.eval()
    try:
        device = next(network.head.parameters()).device
        logits = network(torch.tensor(frames, device=device)).logits
    finally:
        network.train(training)
    return resize(logits.float(), (frames.shape[1], frames.shape[2]))
