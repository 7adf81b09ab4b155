"""Equation 5 by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from stagekit.errors import UsageError
from stagekit.models.loss import segmentation_loss
from stagekit.models.prompted import PromptedOutput


def two_pixels(a: float, b: float) -> Tensor:
    """Logits (1, 2, 1, 2) in which class 1 leads by ``a`` in the left pixel and by ``b`` in the right one."""
    return torch.tensor([[[[0.0, 0.0]], [[a, b]]]])


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


LABELS = torch.tensor([[[1, 0]]], dtype=torch.uint8)
OUTPUT = PromptedOutput(two_pixels(1.0, 2.0), [two_pixels(0.5, -1.0), two_pixels(0.0, 3.0)], [])
# CE of class 1 under a lead of d is log(1 + e^-d), of class 0 it is log(1 + e^d); each the mean of two pixels.
MAIN = (softplus(-1) + softplus(2)) / 2
FIRST = (softplus(-0.5) + softplus(-1)) / 2
SECOND = (softplus(0) + softplus(3)) / 2


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (0.4, MAIN + 0.4 * FIRST + 0.4 * SECOND),
        ([0.1, 0.7], MAIN + 0.1 * FIRST + 0.7 * SECOND),
        (0, MAIN),
        (1, MAIN + FIRST + SECOND),
    ],
)
def test_the_loss_is_the_heads_and_the_weighted_interim_cross_entropies(
    weights: float | list[float], expected: float
) -> None:
    assert segmentation_loss(OUTPUT, LABELS, interim_weights=weights).item() == pytest.approx(expected, rel=1e-6)


def test_ignored_pixels_do_not_count() -> None:
    labels = torch.tensor([[[1, 255]]], dtype=torch.uint8)
    expected = softplus(-1) + 0.4 * (softplus(-0.5) + softplus(0))
    assert segmentation_loss(OUTPUT, labels).item() == pytest.approx(expected, rel=1e-6)


def test_class_weights_weigh_pixels_by_their_class() -> None:
    only_head = PromptedOutput(OUTPUT.logits, [], [])
    loss = segmentation_loss(only_head, LABELS, class_weights=torch.tensor([3.0, 1.0]))
    assert loss.item() == pytest.approx((softplus(-1) + 3 * softplus(2)) / 4, rel=1e-6)


def test_a_batch_without_a_labelled_pixel_costs_nothing_and_spoils_no_weight() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = segmentation_loss(PromptedOutput(logits, [logits], []), torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_coarse_logits_are_resized_bilinearly_to_the_labels() -> None:
    coarse = PromptedOutput(two_pixels(1.0, 3.0), [], [])
    # Four pixels between two: leads 1, 1.5, 2.5, 3 at half-pixel centres.
    expected = (softplus(-1) + softplus(-1.5) + softplus(2.5) + softplus(3)) / 4
    assert segmentation_loss(coarse, torch.tensor([[[1, 1, 0, 0]]])).item() == pytest.approx(expected, rel=1e-6)


def test_auxiliary_heads_add_their_terms() -> None:
    output = OUTPUT._replace(interim=[], auxiliary=[two_pixels(0.5, -1.0)])
    assert segmentation_loss(output, LABELS, auxiliary_weight=0.3).item() == pytest.approx(MAIN + 0.3 * FIRST, rel=1e-6)


def test_half_precision_logits_are_judged_in_float32() -> None:
    half = PromptedOutput(OUTPUT.logits.bfloat16(), [], [])
    loss = segmentation_loss(half, LABELS)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(MAIN, rel=1e-6)  # 1 and 2 are exact in bfloat16


def test_as_many_weights_as_spms() -> None:
    with pytest.raises(UsageError, match="2 SPMs need as many interim weights, got 3"):
        segmentation_loss(OUTPUT, LABELS, interim_weights=[1, 1, 1])
