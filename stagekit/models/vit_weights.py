"""Weights of Vision Transformers under our names, from those that other libraries give them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from os import PathLike

import torch
from torch import Tensor

from stagekit.errors import WeightsError
from stagekit.models.weights import Rename, rename

# The parts of a unit under our names, which are timm's and DINOv2's, and those of mmseg and mmpretrain, torchvision and
# transformers. Query, key and value are joined afterwards where they are stored apart.
PARTS = {
    "norm1": ("norm1", "ln1", "ln_1"),
    "attn.qkv": ("attn.qkv", "attn.attn.in_proj", "self_attention.in_proj"),
    "attn.query": ("attention.attention.query",),
    "attn.key": ("attention.attention.key",),
    "attn.value": ("attention.attention.value",),
    "attn.proj": ("attn.proj", "attn.attn.out_proj", "self_attention.out_proj", "attention.output.dense"),
    "ls1": ("ls1",),
    "ls1.gamma": ("layer_scale1.lambda1",),
    "norm2": ("norm2", "ln2", "ln_2"),
    "mlp.fc1": ("mlp.fc1", "ffn.layers.0.0", "mlp.linear_1", "mlp.0"),
    "mlp.fc2": ("mlp.fc2", "ffn.layers.1", "mlp.linear_2", "mlp.3"),
    "ls2": ("ls2",),
    "ls2.gamma": ("layer_scale2.lambda1",),
}
OURS = {theirs: ours for ours, names in PARTS.items() for theirs in names}


def _unit(match: re.Match[str]) -> str:
    """``layers.0.attn.attn.in_proj_weight`` to ``unit1.attn.qkv.weight``."""
    return f"unit{int(match[1]) + 1}.{OURS[match[2]]}{match[3].replace('_', '.')}"


RENAMES: tuple[Rename, ...] = (
    (r"(?:embeddings\.)?(?:cls_token|class_token)", "stem.cls_token"),
    (r"pos_embed|encoder\.pos_embedding|embeddings\.position_embeddings", "stem.pos_embed"),
    (r"(?:patch_embed\.(?:proj|projection)|conv_proj|embeddings\.patch_embeddings\.projection)\.(.+)", r"stem.proj.\1"),
    (r"(?:norm|ln1|encoder\.ln|layernorm)\.(weight|bias)", r"norm.\1"),
    (
        r"(?:blocks\.|layers\.|encoder\.layer\.|encoder\.layers\.encoder_layer_)(\d+)\."
        rf"({'|'.join(map(re.escape, OURS))})([._](?:weight|bias|gamma)|)",
        _unit,
    ),
)
# Classifiers, the heads of a whole mmseg model, DINOv2's token for masked patches.
SURPLUS = (
    r"heads?\..+",
    r"pre_logits\..+",
    r"(?:embeddings\.)?mask_token",
    r"decode_head\..+",
    r"auxiliary_head\..+",
)


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of timm, DINOv2, mmseg, mmpretrain, torchvision or transformers under our names."""
    return _joined(rename(state, RENAMES, SURPLUS))


def grid_side(position: Tensor, where: str | PathLike[str] = "stem.pos_embed") -> int:
    """Patches along a side of the square grid in a position embedding (1, 1 + side * side, channels)."""
    tokens = position.shape[1] if position.ndim == 3 else 0
    side = math.isqrt(max(tokens - 1, 0))
    if side == 0 or side * side + 1 != tokens:
        raise WeightsError(
            f"a position embedding of shape {tuple(position.shape)} is not one of a class token and a square grid",
            where=where,
            remedy="give a Vision Transformer with one class token and no distillation token",
        )
    return side


def _joined(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Query, key and value that were stored apart, as one projection."""
    for key in [key for key in state if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{part}.") for part in ("query", "key", "value")]
        if len({state[part].shape if part in state else None for part in parts}) == 1 and state[key].ndim:
            state[key.replace(".query.", ".qkv.")] = torch.cat([state.pop(part) for part in parts])
    return state
