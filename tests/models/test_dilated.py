"""Gradients of dilated convolutions under autocast, which a kernel of the processor's own gets wrong."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from stagekit.models.dilated import DilatedConv2d
from stagekit.models.efficientnet_lite import SameConv2d
from stagekit.models.pdc import PDC


def thin() -> nn.Module:
    return DilatedConv2d(24, 24, 3, padding=2, dilation=2)


def wide() -> nn.Module:
    return DilatedConv2d(32, 32, 3, padding=2, dilation=2)


def depthwise() -> nn.Module:
    return SameConv2d(32, 32, 5, dilation=2, groups=32)


def pyramid() -> nn.Module:
    return PDC(96)


@pytest.mark.parametrize(("create", "channels"), [(thin, 24), (wide, 32), (depthwise, 32), (pyramid, 96)])
def test_gradients_in_bfloat16_are_those_in_float32(create: Callable[[], nn.Module], channels: int) -> None:
    torch.manual_seed(0)
    layer = create()
    x = torch.randn(2, channels, 40, 40).contiguous(memory_format=torch.channels_last)
    gradients = []
    for enabled in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = layer(x)
        out.float().square().mean().backward()
        gradients.append([weight.grad.clone() for weight in layer.parameters() if weight.grad is not None])
    assert gradients[0]
    for exact, rounded in zip(*gradients, strict=True):
        assert float((rounded - exact).norm() / exact.norm()) < 0.03


def test_what_is_frozen_or_wide_stays_in_bfloat16() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert thin()(torch.randn(1, 24, 8, 8)).dtype == torch.float32
        assert thin().requires_grad_(False)(torch.randn(1, 24, 8, 8)).dtype == torch.bfloat16
        assert wide()(torch.randn(1, 32, 8, 8)).dtype == torch.bfloat16
