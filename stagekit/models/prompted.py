"""A frozen backbone with SPMs between its segments and a head at the end: the network that a task tunes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, Self, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from stagekit.errors import UsageError
from stagekit.models.backbone import Backbone, BoundaryInfo
from stagekit.models.heads import Head
from stagekit.models.spm import SPM
from stagekit.models.tokens import as_map, prompt


class PromptedOutput(NamedTuple):
    """What the loss needs, each at its own resolution.

    Attributes:
        logits: (batch, classes, h, w) of the head.
        interim: logits of every SPM, in the order of the boundaries.
        auxiliary: logits of the auxiliary heads; empty outside training.
    """

    logits: Tensor
    interim: list[Tensor]
    auxiliary: list[Tensor]


class PromptedNetwork(nn.Module):
    """Segments in a chain; behind a prompted boundary everything sees the prompted feature.

    Args:
        backbone: its structure and weights are left as they are.
        spms: by name of the boundary prompted; none at all is the head-only network. The SPM of the first prompted
            boundary holds the prior M_0; each later one takes the map of the prompted boundary before it.
        head: reads the (prompted) features of the boundaries that it names.
        auxiliary: training-only heads on units inside stages; each reads one :func:`tap`. Never exported.

    Raises:
        UsageError: if a part does not fit the others.
    """

    def __init__(self, backbone: Backbone, spms: Mapping[str, SPM], head: Head, auxiliary: Sequence[Head] = ()) -> None:
        super().__init__()
        _check(backbone, spms, head)
        names = [boundary.name for boundary in backbone.boundaries]
        self.backbone = backbone
        self.prompted = tuple(name for name in names if name in spms)
        self.spms = nn.ModuleList(spms[name] for name in self.prompted)
        self.head = head
        self.auxiliary = nn.ModuleList(auxiliary)
        # Segments behind the last boundary read are not run: nothing would see them.
        self._last = max(names.index(name) for name in head.reads)
        self._first = names.index(self.prompted[0]) if self.prompted else self._last
        self._taps = tuple(_tapped_path(backbone, unit, self._last) for each in auxiliary for unit in each.reads)
        self._holds_statistics = False

    @property
    def spm_by_boundary(self) -> dict[str, SPM]:
        """The SPMs by name of the boundary that each prompts, in order."""
        return {name: cast(SPM, spm) for name, spm in zip(self.prompted, self.spms, strict=True)}

    @property
    def prefix_boundaries(self) -> tuple[str, ...]:
        """Names of the raw features that :meth:`prefix` gives; the last is where the first prompt enters."""
        names = [boundary.name for boundary in self.backbone.boundaries[: self._first + 1]]
        return (*(name for name in names[:-1] if name in self.head.reads), names[-1])

    def forward(self, frames: Tensor) -> PromptedOutput:
        """Logits for uint8 frames (batch, height, width, 3)."""
        with self._tapped() as taps:
            return self._rest(self.prefix(frames), (int(frames.shape[1]), int(frames.shape[2])), taps)

    def prefix(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The raw features before any prompt that the rest needs, in the order of :attr:`prefix_boundaries`.

        While the backbone is frozen they are the same in every epoch, and may be cached.
        """
        kept = []
        x = frames
        for index, boundary in enumerate(self.backbone.boundaries[: self._first + 1]):
            x = self.backbone.segment(index, x)
            if boundary.name in self.prefix_boundaries:
                kept.append(x)
        return tuple(kept)

    def forward_rest(self, prefix: Sequence[Tensor], size: tuple[int, int] | None = None) -> PromptedOutput:
        """The network from :meth:`prefix` on.

        Taps inside the prefix do not fire: what is frozen learns nothing from their heads.

        Args:
            prefix: raw features, as :meth:`prefix` gives them.
            size: (height, width) in pixels of their frames; the backbone's default if None.
        """
        with self._tapped() as taps:
            return self._rest(prefix, size or self.backbone.size, taps)

    def freeze_backbone(self) -> Self:
        """Ends the backbone's learning: no gradients, and BatchNorm statistics held even under ``train()``."""
        self.backbone.requires_grad_(False)
        return self.hold_statistics()

    def hold_statistics(self) -> Self:
        """Keeps the backbone in evaluation mode under ``train()``; its weights may still learn (full tuning)."""
        self._holds_statistics = True
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As in torch, but a held backbone stays in evaluation mode."""
        super().train(mode)
        if self._holds_statistics:
            self.backbone.eval()
        return self

    def grids(self, height: int, width: int) -> dict[str, tuple[int, int]]:
        """(h, w) of every boundary for frames of ``height`` x ``width`` pixels."""
        return {boundary.name: boundary.grid(height, width) for boundary in self.backbone.boundaries}

    def _rest(self, prefix: Sequence[Tensor], size: tuple[int, int], taps: Mapping[str, Tensor]) -> PromptedOutput:
        grids = self.grids(*size)
        features = dict(zip(self.prefix_boundaries, prefix, strict=True))
        spms = self.spm_by_boundary
        x = prefix[-1]
        semantic: Tensor | None = None
        interim: list[Tensor] = []
        for index in range(self._first, self._last + 1):
            boundary = self.backbone.boundaries[index]
            if index > self._first:
                x = self.backbone.segment(index, x)
            if boundary.name in spms:
                x, semantic, logits = prompt(spms[boundary.name], boundary, grids[boundary.name], x, semantic)
                interim.append(logits)
            features[boundary.name] = x
        logits = self.head([as_map(features[b.name], b, grids[b.name]) for b in self.head.boundaries])
        return PromptedOutput(logits, interim, self._auxiliary_logits(taps, size))

    def _auxiliary_logits(self, taps: Mapping[str, Tensor], size: tuple[int, int]) -> list[Tensor]:
        result = []
        for path, module in zip(self._taps, self.auxiliary, strict=True):
            if path in taps:
                head = cast(Head, module)
                (boundary,) = head.boundaries
                result.append(head([as_map(taps[path], boundary, boundary.grid(*size))]))
        return result

    @contextmanager
    def _tapped(self) -> Iterator[dict[str, Tensor]]:
        """Collects the tapped units' outputs by path while training; outside training there are none."""
        caught: dict[str, Tensor] = {}

        def catch(path: str) -> RemovableHandle:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                caught[path] = output

            return self.backbone.get_submodule(path).register_forward_hook(hook)

        handles = [catch(path) for path in self._taps] if self.training else []
        try:
            yield caught
        finally:
            for handle in handles:
                handle.remove()


def tap(backbone: Backbone, unit: str) -> BoundaryInfo:
    """What an auxiliary head reads: the output of a unit inside a stage, of the same form as the stage's own.

    Args:
        backbone: the backbone.
        unit: the unit's name in its segment, whatever the cuts: ``unit10`` of a ViT, ``stage3_7`` of a ResNet.

    Raises:
        UsageError: if the backbone has no such unit.
    """
    return replace(backbone.boundaries[_segment_of(backbone, unit)], name=unit)


def _segment_of(backbone: Backbone, unit: str) -> int:
    names = [[name for name, _ in segment.named_children()] for segment in backbone.segments]
    for index, units in enumerate(names):
        if unit in units:
            return index
    raise UsageError(
        f"the backbone has no unit '{unit}'",
        where=unit,
        remedy=f"one of {', '.join(name for u in names for name in u)}",
    )


def _tapped_path(backbone: Backbone, unit: str, last: int) -> str:
    segment = _segment_of(backbone, unit)
    if segment > last:
        raise UsageError(
            "this unit does not run: it lies behind the last boundary that the head reads",
            where=unit,
            remedy="tap an earlier unit, or let the head read a later boundary",
        )
    return f"segments.{segment}.{unit}"


def _check(backbone: Backbone, spms: Mapping[str, SPM], head: Head) -> None:
    """Raises UsageError for the first part that does not fit."""
    names = [boundary.name for boundary in backbone.boundaries]
    known = {boundary.name: boundary for boundary in backbone.boundaries}
    for name in (*spms, *head.reads):
        if name not in known:
            raise UsageError(f"the backbone has no boundary '{name}'", where=name, remedy=f"one of {', '.join(names)}")
    for boundary in head.boundaries:
        _check_channels("the head", boundary.channels, known[boundary.name])
    last_read = max(names.index(name) for name in head.reads)
    for position, name in enumerate(sorted(spms, key=names.index)):
        spm = spms[name]
        _check_channels("the SPM", spm.channels, known[name])
        if spm.classes != head.classes:
            raise UsageError(f"the SPM has {spm.classes} classes, the head {head.classes}", where=name)
        if spm.first != (position == 0):
            raise UsageError(
                "only the first prompted boundary's SPM holds the class frequencies (prior)",
                where=name,
                remedy=f"pass the prior to the SPM at '{min(spms, key=names.index)}' and to no other",
            )
        if names.index(name) > last_read:
            raise UsageError(
                f"nothing reads what this prompt changes; the head reads {', '.join(head.reads)}",
                where=name,
                remedy="leave this SPM out, or let the head read a later boundary",
            )


def _check_channels(what: str, channels: int, boundary: BoundaryInfo) -> None:
    if channels != boundary.channels:
        raise UsageError(f"{what} takes {channels} channels, the boundary has {boundary.channels}", where=boundary.name)
