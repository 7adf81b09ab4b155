"""What a network computes in while it learns."""

from __future__ import annotations

import torch

from stagekit.cpu import computes_bf16
from stagekit.tune.sections import TrainSection


def precision_of(train: TrainSection, device: torch.device) -> torch.dtype:
    """bfloat16 where the recipe asks for it, or leaves the choice and the device has instructions for it.

    Without them torch computes bfloat16 in software, dozens of times slower than float32.
    """
    if train.precision != "auto":
        return torch.bfloat16 if train.precision == "bf16" else torch.float32
    fast = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else computes_bf16()
    return torch.bfloat16 if fast else torch.float32


def autocast(train: TrainSection, device: torch.device) -> torch.autocast:
    """The context of a forward pass; weights stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision_of(train, device) == torch.bfloat16)
