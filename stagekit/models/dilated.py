"""A convolution whose gradient is right under a CPU's autocast, dilated or not."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DilatedConv2d(nn.Conv2d):
    """``nn.Conv2d``; where oneDNN's bfloat16 gradient would be wrong, it computes in float32.

    For the weights of a dilated convolution with stride 1 whose input channels (of one group) are no multiple of 16,
    oneDNN reads out of bounds on channels-last maps of about 30 and more columns: wrong numbers, NaN or a crash
    (torch 2.13 on a processor with AVX-512 BF16). Such layers are thin, and lose little by it.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, in, h, w) to (batch, out, h', w')."""
        thin = self.dilation != (1, 1) and self.weight.shape[1] % 16
        if thin and self.weight.requires_grad and x.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                return self.convolve(x.float())
        return self.convolve(x)

    def convolve(self, x: Tensor) -> Tensor:
        """The convolution itself, for layers that pad in another way."""
        return super().forward(x)
