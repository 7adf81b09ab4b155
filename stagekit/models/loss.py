"""The loss that tunes SPMs and head (equation 5)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from stagekit.errors import UsageError
from stagekit.models.pooling import resize
from stagekit.models.prompted import PromptedOutput

IGNORE = 255


def segmentation_loss(
    output: PromptedOutput,
    labels: Tensor,
    *,
    interim_weights: float | Sequence[float] = 0.4,
    auxiliary_weight: float = 0.4,
    class_weights: Tensor | None = None,
    ignore_index: int = IGNORE,
) -> Tensor:
    """``CE(M, Y) + sum_i a_i CE(M_i, Y)``, plus the auxiliary heads' terms while there are any.

    Every CE is on logits, resized bilinearly to the label's size, and is the mean over the pixels that count.

    Args:
        output: of a :class:`PromptedNetwork`.
        labels: Y (batch, height, width), any integer type.
        interim_weights: a_i, one for all SPMs or one for each; 0 leaves the term out (the paper's ablation).
        auxiliary_weight: of each auxiliary head, as in mmseg.
        class_weights: (s,), or None for equal weights.
        ignore_index: label of pixels that do not count; a batch that has no others costs 0.

    Raises:
        UsageError: if the number of weights is not that of the SPMs.
    """
    count = len(output.interim)
    weights = [float(interim_weights)] * count if isinstance(interim_weights, int | float) else list(interim_weights)
    if len(weights) != count:
        raise UsageError(
            f"{count} SPMs need as many interim weights, got {len(weights)}",
            where="interim_weights",
            remedy="one number serves all",
        )
    target = labels.long()
    terms = [(1.0, output.logits), *zip(weights, output.interim, strict=True)]
    terms += [(auxiliary_weight, logits) for logits in output.auxiliary]
    total = torch.zeros((), device=output.logits.device)
    for weight, logits in terms:
        if weight:
            total = total + weight * _cross_entropy(logits, target, class_weights, ignore_index)
    return total


def _cross_entropy(logits: Tensor, target: Tensor, class_weights: Tensor | None, ignore_index: int) -> Tensor:
    # In float32 also under autocast; and not torch's own mean, which is NaN where every pixel is ignored.
    full = resize(logits.float(), (int(target.shape[1]), int(target.shape[2])))
    total = F.cross_entropy(full, target, weight=class_weights, ignore_index=ignore_index, reduction="sum")
    counted = target != ignore_index
    amount = counted.sum() if class_weights is None else class_weights[target[counted]].sum()
    return total / amount.clamp(min=torch.finfo(torch.float32).tiny)
