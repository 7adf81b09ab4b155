"""Labels of whole images from a network in torch: through one frame, or by a sliding window."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stagekit.data.geometry import Geometry, Resize
from stagekit.data.images import Pixels
from stagekit.data.sliding import sliding_window
from stagekit.models.pooling import resize as resize_map
from stagekit.models.prompted import PromptedNetwork
from stagekit.tune.recipe import Recipe
from stagekit.tune.score import Predict


def predictor(network: PromptedNetwork, recipe: Recipe) -> Predict:
    """How the recipe predicts an image, in float32, the precision that metrics are stated for."""
    if recipe.evaluate.mode == "whole":
        return whole_image(network, recipe.data.resize)
    return windows(network, recipe.evaluate.stride, covers=recipe.data.resize == "crop")


def whole_image(network: PromptedNetwork, resize: Resize = "stretch") -> Predict:
    """The image in one frame; labels by a nearest look-up in the frame's, as a session gives them."""
    geometry = Geometry(*network.backbone.size, resize)

    def predict(image: Pixels) -> Pixels:
        frame, placement = geometry.apply(image)
        labels = _logits(network, frame[None]).argmax(dim=1)[0]
        return placement.labels_to_image(labels.to("cpu", torch.uint8).numpy())

    return predict


def windows(network: PromptedNetwork, stride: tuple[int, int] | None = None, *, covers: bool = False) -> Predict:
    """:func:`stagekit.data.sliding.sliding_window` over the network, whose frames are the windows.

    Args:
        stride: in pixels; two thirds of the frame by default.
        covers: whether the image is first scaled until it just covers a window.
    """
    height, width = network.backbone.size
    red, green, blue = (round(level) for level in network.backbone.preprocessing.mean)

    def logits(frames: Pixels) -> NDArray[np.float32]:
        found: NDArray[np.float32] = _logits(network, frames).cpu().numpy()
        return found

    steps = stride or (max(height * 2 // 3, 1), max(width * 2 // 3, 1))
    return sliding_window(logits, (height, width), steps, covers=covers, fill=(red, green, blue))


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
    return resize_map(logits.float(), (frames.shape[1], frames.shape[2]))
