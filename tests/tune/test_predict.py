"""Prediction of whole images and by a sliding window, and scores, against independent computations."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from stagekit.data.folder import Folder
from stagekit.data.geometry import Geometry, Resize
from stagekit.data.images import Pixels
from stagekit.data.sliding import window_starts
from stagekit.models.backbone import Backbone
from stagekit.models.prompted import PromptedNetwork
from stagekit.tune.network import create_network
from stagekit.tune.predict import predictor, whole_image, windows
from stagekit.tune.recipe import Recipe
from stagekit.tune.score import metrics, score


@pytest.fixture
def network(backbone: Backbone, recipe: Callable[..., Recipe]) -> PromptedNetwork:
    """Random, and wide awake: its classes all occur."""
    torch.manual_seed(3)
    made = create_network(recipe(), backbone, 3, torch.tensor([0.6, 0.3, 0.1]))
    torch.nn.init.normal_(made.head.classifier.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    return made.train()


def logits(network: PromptedNetwork, frames: Pixels) -> torch.Tensor:
    with torch.no_grad():
        output = network.eval()(torch.from_numpy(frames.copy())).logits
    return F.interpolate(output, size=frames.shape[1:3], mode="bilinear")


@pytest.mark.parametrize("resize", ["stretch", "letterbox", "crop"])
def test_whole_images_are_predicted_through_the_frame(network: PromptedNetwork, resize: Resize) -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3)).astype(np.uint8)
    frame, placement = Geometry(24, 32, resize).apply(image)
    expected = logits(network, frame[None]).argmax(1)[0].numpy().astype(np.uint8)
    labels = whole_image(network, resize)(image)
    assert labels.shape == (50, 61)
    assert labels.dtype == np.uint8
    assert np.array_equal(labels, placement.labels_to_image(expected))
    assert len(np.unique(labels)) > 1


def test_predicting_leaves_training_mode_as_it_was(network: PromptedNetwork) -> None:
    image = np.zeros((24, 32, 3), np.uint8)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    whole_image(network)(image)
    assert network.training
    assert network.head.training
    assert not network.backbone.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_windows_average_where_they_overlap(network: PromptedNetwork) -> None:
    """MMSegmentation's ``slide_inference``, written out as it is there."""
    image = np.random.default_rng(0).integers(0, 256, (50, 61, 3)).astype(np.uint8)
    h_crop, w_crop, h_stride, w_stride, h_img, w_img = 24, 32, 16, 20, 50, 61
    total, count = torch.zeros(3, h_img, w_img), torch.zeros(h_img, w_img)
    for h_idx in range(max(h_img - h_crop + h_stride - 1, 0) // h_stride + 1):
        for w_idx in range(max(w_img - w_crop + w_stride - 1, 0) // w_stride + 1):
            y2, x2 = min(h_idx * h_stride + h_crop, h_img), min(w_idx * w_stride + w_crop, w_img)
            y1, x1 = max(y2 - h_crop, 0), max(x2 - w_crop, 0)
            total[:, y1:y2, x1:x2] += logits(network, image[None, y1:y2, x1:x2])[0]
            count[y1:y2, x1:x2] += 1
    assert (count > 0).all()
    expected = (total / count).argmax(0).numpy()
    labels = windows(network, (16, 20))(image)
    assert (labels == expected).mean() > 0.999  # windows run in batches, whose rounding differs


def test_windows_over_a_fitted_short_side_are_labelled_in_the_images_own_size(network: PromptedNetwork) -> None:
    """MMSegmentation's order: keep-ratio resize, windows, logits to the original size, arg max."""
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3)).astype(np.uint8)
    shown = np.asarray(Image.fromarray(image).resize((40, 24), Image.Resampling.BILINEAR))
    left, right = (logits(network, shown[None, :, start : start + 32])[0] for start in (0, 8))
    mean = F.pad(left, (0, 8)) + F.pad(right, (8, 0))
    mean[:, :, 8:32] /= 2
    expected = F.interpolate(mean[None], size=(60, 100), mode="bilinear", align_corners=False).argmax(1)[0].numpy()
    labels = windows(network, (24, 8), covers=True)(image)
    assert (labels == expected).mean() > 0.995  # logits are resampled in another order of additions
    assert not np.array_equal(labels, whole_image(network, "crop")(image))


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [(24, 24, 16, [0]), (50, 24, 16, [0, 16, 26]), (56, 24, 16, [0, 16, 32]), (25, 24, 16, [0, 1])],
)
def test_windows_cover_a_side_and_end_at_its_border(length: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(length, window, stride) == starts


def test_an_image_smaller_than_the_window_is_padded(network: PromptedNetwork) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 40, 3)).astype(np.uint8)
    assert windows(network, (16, 20))(image).shape == (20, 40)


def test_one_window_of_the_images_size_is_the_whole_image(
    network: PromptedNetwork, recipe: Callable[..., Recipe]
) -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 32, 3)).astype(np.uint8)
    slide = predictor(network, recipe(evaluate={"mode": "slide"}))
    whole = predictor(network, recipe())
    assert np.array_equal(slide(image), whole(image))


def test_a_recipe_says_how_images_become_frames(network: PromptedNetwork, recipe: Callable[..., Recipe]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 100, 3)).astype(np.uint8)
    letterbox = predictor(network, recipe(data={"resize": "letterbox"}))
    assert np.array_equal(letterbox(image), whole_image(network, "letterbox")(image))
    covering = predictor(network, recipe(data={"resize": "crop"}, evaluate={"mode": "slide", "stride": [24, 8]}))
    assert np.array_equal(covering(image), windows(network, (24, 8), covers=True)(image))


def test_scores_are_those_of_torchmetrics(network: PromptedNetwork, folder: Folder) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score, MulticlassJaccardIndex

    predict = whole_image(network)
    judges = {
        "iou": MulticlassJaccardIndex(3, average="none", ignore_index=255),
        "dice": MulticlassF1Score(3, average="none", ignore_index=255),
        "accuracy": MulticlassAccuracy(3, average="micro", ignore_index=255),
    }
    for sample in folder.samples("test"):
        labels, truth = torch.from_numpy(predict(sample.image)).long(), torch.from_numpy(sample.mask).long()
        for judge in judges.values():
            judge.update(labels, truth)
    calls: list[tuple[int, int]] = []
    confusion = score(folder, "test", predict, lambda done, total: calls.append((done, total)))
    miou, dice, accuracy = metrics(confusion, folder, "test", "rectangles")
    assert list(miou.per_class.values()) == pytest.approx(judges["iou"].compute().tolist())
    assert miou.value == pytest.approx(float(judges["iou"].compute().mean()))
    assert list(dice.per_class.values()) == pytest.approx(judges["dice"].compute().tolist())
    assert accuracy.value == pytest.approx(float(judges["accuracy"].compute()))
    assert (miou.data, miou.split, miou.images, list(miou.per_class)) == (
        "rectangles", "test", 3, ["ground", "red", "green"],
    )  # fmt: skip
    assert calls == [(1, 3), (2, 3), (3, 3)]
