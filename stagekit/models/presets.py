"""Widths ĉ of SPMs by preset, and the SPMs of a task made from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from torch import Tensor

from stagekit.errors import UsageError
from stagekit.models.backbone import BoundaryInfo
from stagekit.models.spm import SPM

Kind = Literal["map", "tokens"]

# A search over widths of the equations' structure for the counts that the paper prints (its table 6).
_PARAM_MATCHED: dict[Kind, dict[int, int]] = {
    "map": {64: 224, 256: 220, 512: 212, 1024: 132, 2048: 104},
    "tokens": {1024: 132},
}
_ALIGNED_BUDGET = 600_000


def _paper(channels: int, kind: Kind) -> int:
    """256 everywhere, as the paper states, though its own counts rule that out."""
    return 256


def _param_matched(channels: int, kind: Kind) -> int:
    """What the paper's counts imply; known for ResNet-50/101 and ViT-L only."""
    known = _PARAM_MATCHED[kind]
    if channels not in known:
        raise UsageError(
            f"the paper has no {kind} boundary of {channels} channels, only {', '.join(map(str, known))}",
            where="param-matched",
            remedy="use the preset 'aligned' or 'small'",
        )
    return known[channels]


def _aligned(channels: int, kind: Kind) -> int:
    """The widest multiple of 32 up to 256 whose SPM (classes aside) stays within 0.6 M weights, the paper's typical.

    Multiples of 32 make PDC groups multiples of 8 channels, the unit in which int8 hardware works.
    """
    fits = [w for w in range(32, 257, 32) if 3 * w * channels + 6.5 * w * w <= _ALIGNED_BUDGET]
    return max(fits, default=32)


def _small(channels: int, kind: Kind) -> int:
    """For small backbones: the channels rounded up to a multiple of 16, between 32 and 64."""
    return min(max(-(-channels // 16) * 16, 32), 64)


PRESETS: dict[str, Callable[[int, Kind], int]] = {
    "paper": _paper,
    "param-matched": _param_matched,
    "aligned": _aligned,
    "small": _small,
}


def width_for(preset: str, channels: int, kind: Kind = "map") -> int:
    """ĉ for an SPM at a boundary.

    Args:
        preset: one of :data:`PRESETS`.
        channels: of the boundary's feature.
        kind: of the boundary.

    Raises:
        UsageError: if there is no such preset, or it says nothing about such a boundary.
    """
    if preset not in PRESETS:
        raise UsageError(f"unknown preset '{preset}'", where="preset", remedy=f"one of {', '.join(PRESETS)}")
    return PRESETS[preset](channels, kind)


def create_spms(
    boundaries: Sequence[BoundaryInfo], classes: int, prior: Tensor, preset: str = "aligned", **options: Any
) -> dict[str, SPM]:
    """One SPM for each boundary given, in order, for :class:`PromptedNetwork`; the first holds the prior.

    Args:
        boundaries: those to be prompted, in the backbone's order.
        classes: s.
        prior: class frequencies (s,) of the training set.
        preset: of the widths.
        options: of :class:`SPM` (dilations, mode, norm, activation, prompt), the same for all.
    """
    return {
        boundary.name: SPM(
            boundary.channels,
            classes,
            width_for(preset, boundary.channels, boundary.kind),
            prior=None if position else prior,
            **options,
        )
        for position, boundary in enumerate(boundaries)
    }
