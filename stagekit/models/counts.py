"""Counting parameters and multiply-accumulates of torch modules, on the meta device: no memory, no arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def parameters(module: nn.Module, *, norms: bool = True, biases: bool = True) -> int:
    """Number of parameters.

    Args:
        module: anything, also on the meta device.
        norms: whether scale and shift of normalisation layers count; the paper leaves BatchNorm out.
        biases: whether other layers' biases count.
    """
    total = 0
    for part in module.modules():
        is_norm = isinstance(part, _NORMS)
        if is_norm and not norms:
            continue
        for name, parameter in part.named_parameters(recurse=False):
            if is_norm or biases or name != "bias":
                total += parameter.numel()
    return total


def macs(module: nn.Module, *inputs: object) -> int:
    """Multiply-accumulates of ``module(*inputs)`` in convolutions and matrix products.

    Args:
        module: taken in its evaluation mode; its weights are not touched.
        inputs: tensors or sequences of tensors, of which only shape and type matter.
    """
    state = {name: t.to("meta") for name, t in [*module.named_parameters(), *module.named_buffers()]}
    training = [m for m in module.modules() if m.training]
    module.eval()
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            functional_call(module, state, tuple(_meta(x) for x in inputs))
    finally:
        for part in training:
            part.training = True
    return int(counter.get_total_flops()) // 2


def _meta(value: object) -> object:
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, (list, tuple)):
        return [_meta(item) for item in value]
    return value
