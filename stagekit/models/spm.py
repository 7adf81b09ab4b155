"""The Semantic-aware Prompt Matcher: what a task learns between two frozen stages (arXiv 2208.10159)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from stagekit.errors import UsageError
from stagekit.models.pdc import PDC, PDCMode
from stagekit.models.pooling import resize, spatial

Norm = Literal["none", "batch", "group"]
Activation = Literal["none", "relu", "gelu"]
Prompt = Literal["multiplicative", "additive"]


class SPMOutput(NamedTuple):
    """What an SPM gives.

    Attributes:
        prompted: (batch, channels, h, w), what the next stage takes: F + P (equation 2).
        semantic: (batch, classes, h, w), the interim map M after softmax, for the next SPM.
        logits: (batch, classes, h, w), M before softmax, for the loss.
    """

    prompted: Tensor
    semantic: Tensor
    logits: Tensor


class SPM(nn.Module):
    """``P, M = SPM(F, M_previous)`` (equations 1 to 4).

    The weights number 3 ĉ (c + s) + 6.5 ĉ², the biases 6 ĉ + c + s, at c channels, s classes and width ĉ.
    The last convolution of the prompt branch starts at zero, so tuning starts from the unprompted network.

    Args:
        channels: c, of the feature.
        classes: s.
        width: ĉ, the inner width.
        dilations: rates of both PDCs.
        prior: for a task's first SPM the class frequencies (s,) of the training set, which are M_0 at every
            position; None for the later ones, which are handed the map of the SPM before.
        mode: ``single`` replaces each PDC by one 3x3 convolution (ablation).
        norm, activation: after the entry convolution and the PDC of each branch; the paper names none.
        prompt: ``multiplicative`` is P = F * W; ``additive`` is P = W.

    Raises:
        UsageError: if the width does not suit the PDC, or the prior is no distribution over the classes.
    """

    prior: Tensor | None

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        *,
        dilations: Sequence[int] = (1, 2, 4, 8),
        prior: Tensor | None = None,
        mode: PDCMode = "pyramid",
        norm: Norm = "none",
        activation: Activation = "none",
        prompt: Prompt = "multiplicative",
    ) -> None:
        super().__init__()
        if prompt not in ("multiplicative", "additive"):
            raise UsageError(f"unknown prompt '{prompt}'", where="prompt", remedy="'multiplicative' or 'additive'")
        self.channels, self.classes, self.width, self.prompt = channels, classes, width, prompt
        self.semantic_branch = _Branch(channels + classes, width, classes, dilations, mode, norm, activation)
        self.prompt_branch = _Branch(channels + classes, width, channels, dilations, mode, norm, activation)
        nn.init.zeros_(self.prompt_branch.leave.weight)
        nn.init.zeros_(_bias(self.prompt_branch.leave))
        self.register_buffer("prior", None if prior is None else _checked_prior(prior, classes))
        self.folded = False

    @property
    def first(self) -> bool:
        """Whether this is a task's first SPM, which takes no semantic map."""
        return self.prior is not None

    def forward(self, feature: Tensor, semantic: Tensor | None = None) -> SPMOutput:
        """Prompts one feature.

        Args:
            feature: F (batch, c, h, w).
            semantic: M of the SPM before (batch, s, h', w') at its own resolution, resized here; None for the first.
        """
        logits: Tensor = self.semantic_branch(self._with_semantic(feature, semantic))
        current = logits.softmax(dim=1)
        weight: Tensor = self.prompt_branch(torch.cat([feature, current], dim=1))
        prompt = feature * weight if self.prompt == "multiplicative" else weight
        return SPMOutput(feature + prompt, current, logits)

    def fold_prior(self) -> None:
        """Moves the constant M_0 into the bias of the convolution that reads it; for export, not to be undone.

        The same map at every position adds the same to every pixel, so the exported graph needs neither the
        map nor the concatenation (nor a shape operator that spreads it over the batch).
        """
        if self.prior is None or self.folded:
            return
        enter = self.semantic_branch.enter
        folded = nn.Conv2d(self.channels, self.width, 1).to(enter.weight)
        with torch.no_grad():
            folded.weight.copy_(enter.weight[:, : self.channels])
            _bias(folded).copy_(_bias(enter) + enter.weight[:, self.channels :, 0, 0] @ self.prior.to(enter.weight))
        self.semantic_branch.enter = folded
        self.folded = True

    def _with_semantic(self, feature: Tensor, semantic: Tensor | None) -> Tensor:
        """[F, M]: (batch, c + s, h, w), or F alone where M_0 lies in the bias."""
        if self.prior is not None:
            if semantic is not None:
                raise ValueError("the first SPM holds its semantic map M_0 itself and takes none")
            if self.folded:
                return feature
            semantic = self.prior.to(feature).view(1, -1, 1, 1).expand(feature.shape[0], -1, *spatial(feature))
        elif semantic is None:
            raise ValueError("an SPM without a prior needs the semantic map of the SPM before it")
        return torch.cat([feature, resize(semantic, spatial(feature))], dim=1)


class _Branch(nn.Module):
    """Conv1x1, PDC, Conv1x1: either branch of equations 3 and 4."""

    def __init__(
        self,
        channels: int,
        width: int,
        outputs: int,
        dilations: Sequence[int],
        mode: PDCMode,
        norm: Norm,
        activation: Activation,
    ) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 1)
        self.after_enter = _norm_activation(width, norm, activation)
        self.context = PDC(width, dilations, mode)
        self.after_context = _norm_activation(width, norm, activation)
        self.leave = nn.Conv2d(width, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.after_enter(self.enter(x))
        x = self.after_context(self.context(x))
        result: Tensor = self.leave(x)
        return result


def _norm_activation(width: int, norm: Norm, activation: Activation) -> nn.Module:
    norms: dict[str, Callable[[], nn.Module]] = {
        "none": nn.Identity,
        "batch": lambda: nn.BatchNorm2d(width),
        "group": lambda: nn.GroupNorm(4, width),
    }
    activations: dict[str, Callable[[], nn.Module]] = {"none": nn.Identity, "relu": nn.ReLU, "gelu": nn.GELU}
    if norm not in norms:
        raise UsageError(f"unknown norm '{norm}'", where="norm", remedy=f"one of {', '.join(norms)}")
    if activation not in activations:
        raise UsageError(
            f"unknown activation '{activation}'", where="activation", remedy=f"one of {', '.join(activations)}"
        )
    return nn.Sequential(norms[norm](), activations[activation]())


def _checked_prior(prior: Tensor, classes: int) -> Tensor:
    prior = prior.detach().to(torch.float32).clone()
    if prior.shape != (classes,):
        raise UsageError(
            f"{classes} classes need as many class frequencies, got shape {tuple(prior.shape)}", where="prior"
        )
    if not prior.is_meta and (bool((prior < 0).any()) or abs(float(prior.sum()) - 1) > 1e-3):
        raise UsageError(
            f"class frequencies must be positive and sum to 1, they sum to {float(prior.sum()):.4g}",
            where="prior",
            remedy="divide the pixel counts by their total",
        )
    return prior


def _bias(convolution: nn.Conv2d) -> Tensor:
    assert convolution.bias is not None
    return convolution.bias
