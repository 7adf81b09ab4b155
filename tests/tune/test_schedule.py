"""Learning rates and class weights, against formulae written out."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone
from stagekit.tune.network import create_network
from stagekit.tune.recipe import Recipe
from stagekit.tune.schedule import class_weights, create_optimizer, rate_factor, set_rates

PRIOR = torch.tensor([0.6, 0.3, 0.1])


def test_the_rate_rises_linearly_then_decays_as_poly() -> None:
    rates = [rate_factor(step, 100, 4, 0.9) for step in range(100)]
    assert rates[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert rates[52] == pytest.approx(0.5**0.9)
    assert rates[99] == pytest.approx((1 / 96) ** 0.9)
    assert all(a > b for a, b in pairwise(rates[4:]))


def test_without_warmup_it_is_the_poly_schedule_of_torch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=0.9)
    for step in range(50):
        assert rate_factor(step, 50, 0, 0.9) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize(
    ("kind", "expected"), [("spm", {2e-3, 1e-2}), ("head", {1e-2}), ("full", {3e-4, 1e-2}), ("scratch", {3e-4, 1e-2})]
)
def test_each_part_that_learns_has_its_own_rate(
    backbone: Backbone, recipe: Callable[..., Recipe], kind: str, expected: set[float]
) -> None:
    chosen = recipe(method={"kind": kind})
    network = create_network(chosen, backbone, 3, PRIOR)
    optimizer = create_optimizer(network, chosen.train)
    set_rates(optimizer, 0.5)
    assert {group["lr"] for group in optimizer.param_groups} == {rate / 2 for rate in expected}
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in network.parameters() if p.requires_grad}


def test_with_layer_decay_rates_fall_unit_by_unit_towards_the_input(
    backbone: Backbone, recipe: Callable[..., Recipe]
) -> None:
    chosen = recipe(method={"kind": "full"}, train={"lr_backbone": 1e-3, "layer_decay": 0.5})
    network = create_network(chosen, backbone, 3, PRIOR)
    rates = {
        id(parameter): group["peak"]
        for group in create_optimizer(network, chosen.train).param_groups
        for parameter in group["params"]
    }
    assert set(rates) == {id(p) for p in network.parameters() if p.requires_grad}
    # Stem and three stages of one unit each, so that segments are units.
    for segment, expected in zip(backbone.segments, (1.25e-4, 2.5e-4, 5e-4, 1e-3), strict=True):
        assert {rates[id(p)] for p in segment.parameters()} == {expected}


def test_biases_and_normalisation_are_not_decayed(backbone: Backbone, recipe: Callable[..., Recipe]) -> None:
    chosen = recipe()
    for group in create_optimizer(create_network(chosen, backbone, 3, PRIOR), chosen.train).param_groups:
        assert {p.dim() > 1 for p in group["params"]} == {group["weight_decay"] > 0}


def test_balanced_weights_have_mean_1_over_pixels_and_leave_absent_classes_out() -> None:
    frequencies = torch.tensor([0.64, 0.36, 0.0])
    weights = class_weights("balanced", frequencies)
    assert weights is not None
    assert float((weights * frequencies).sum()) == pytest.approx(1)
    assert float(weights[1] / weights[0]) == pytest.approx(0.8 / 0.6)
    assert weights[2] == 0
    assert class_weights(None, frequencies) is None
    assert torch.equal(class_weights((1.0, 2.0, 3.0), frequencies), torch.tensor([1.0, 2.0, 3.0]))  # type: ignore[arg-type]


def test_class_weights_are_one_for_each_class() -> None:
    with pytest.raises(UsageError, match=r"train.class_weights: 3 classes .* got 2"):
        class_weights((1.0, 2.0), PRIOR)
