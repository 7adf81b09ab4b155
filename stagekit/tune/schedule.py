"""Learning rates: what learns at which rate, and how rates move."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone
from stagekit.models.prompted import PromptedNetwork
from stagekit.tune.sections import TrainSection


def rate_factor(step: int, steps: int, warmup: int, power: float) -> float:
    """The share of the peak learning rate at ``step`` (from 0) of ``steps``.

    A linear rise ``(step + 1) / warmup``, then MMSegmentation's poly decay
    ``(1 - (step - warmup) / (steps - warmup)) ** power``. A function of the step alone: nothing to save or restore.
    """
    if step < warmup:
        return (step + 1) / warmup
    return float((1 - (step - warmup) / (steps - warmup)) ** power)


def create_optimizer(network: PromptedNetwork, train: TrainSection) -> Optimizer:
    """One group for each part and kind of parameter that learns; its peak rate is kept as ``peak``."""
    parts: list[tuple[list[nn.Module], float]] = [
        *_backbone_rates(network.backbone, train),
        ([network.spms], train.lr_spm),
        ([network.head, network.auxiliary], train.lr_head),
    ]
    groups = []
    for modules, rate in parts:
        learning = [p for module in modules for p in module.parameters() if p.requires_grad]
        for decayed in (True, False):
            # Biases and normalisation are vectors; pulling them towards zero only hurts.
            chosen = [p for p in learning if (p.dim() > 1) is decayed]
            if chosen:
                decay = train.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
    if train.optimizer == "sgd":
        return SGD(groups, momentum=train.momentum)
    return AdamW(groups)


def _backbone_rates(backbone: Backbone, train: TrainSection) -> list[tuple[list[nn.Module], float]]:
    """The backbone as a whole, or unit by unit where rates fall towards the input (arXiv 2106.08254)."""
    if train.layer_decay == 1:
        return [([backbone], train.lr_backbone)]
    units = [unit for segment in backbone.segments for unit in segment.children()]
    return [
        ([unit], train.lr_backbone * train.layer_decay**behind)
        for unit, behind in zip(units, reversed(range(len(units))), strict=True)
    ]


def set_rates(optimizer: Optimizer, factor: float) -> None:
    """Every group at ``factor`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def class_weights(choice: str | tuple[float, ...] | None, frequencies: torch.Tensor) -> torch.Tensor | None:
    """Weights (classes,) of the cross entropy, or None for equal ones.

    ``balanced`` is ``1 / sqrt(frequency)`` with a mean of 1 over the pixels; classes that do not occur get 0.

    Raises:
        UsageError: there are not as many as classes.
    """
    if choice is None:
        return None
    if not isinstance(choice, str):
        if len(choice) != len(frequencies):
            raise UsageError(
                f"{len(frequencies)} classes need as many weights, got {len(choice)}",
                where="train.class_weights",
                remedy='give one for each, in the order of the classes, or "balanced"',
            )
        return torch.tensor(choice)
    occurs = frequencies > 0
    raw = torch.where(occurs, frequencies.clamp(min=1e-12).rsqrt(), torch.zeros(()))
    return raw / (raw * frequencies).sum()
