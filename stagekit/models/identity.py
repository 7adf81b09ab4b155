"""Which backbone a task was made for."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

import torch
from torch import Tensor

from stagekit.models.backbone import Backbone
from stagekit.models.weights import canonical_state


def backbone_id(backbone: Backbone) -> str:
    """SHA-256, as 64 hexadecimal digits, of all that a task relies on.

    That is the architecture with its revision, the preprocessing, the names of all boundaries, and every weight
    and statistic. The frame size does not count, nor do BatchNorm's step counters or the device.
    """
    description = {
        "architecture": backbone.architecture,
        "preprocessing": asdict(backbone.preprocessing),
        "boundaries": [boundary.name for boundary in backbone.boundaries],
        "tensors": [
            [name, str(tensor.dtype), list(tensor.shape), tensor_digest(tensor)]
            for name, tensor in sorted(canonical_state(backbone).items())
        ],
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's bytes, row by row, little end first; one tensor at a time is all that is ever copied."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    if flat.numel() < 2:  # dense whatever its stride, which must be 1 to be seen as bytes
        flat = flat.clone(memory_format=torch.contiguous_format)
    return hashlib.sha256(flat.view(torch.uint8).numpy().data).hexdigest()
