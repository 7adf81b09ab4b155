"""Tuning for frozen stages in integers: simulated int8, or floats that the ranges of a record bound.

The stages' graphs, as a record and a profile quantise them for ``compile``, run in torch
(:mod:`stagekit.tune.graph_module`) in place of the backbone's own modules. SPMs and head stay floats, and get
what they get when deployed: boundaries rounded to the one scale that producer, consumer and all tasks share.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from stagekit.bundle import StagesManifest, read_graph, read_manifest
from stagekit.bundle.manifest import ThroughEntry
from stagekit.errors import BundleError, UsageError
from stagekit.graph import Graph
from stagekit.graph.spec import Quantization
from stagekit.models.backbone import Backbone
from stagekit.models.prompted import PromptedNetwork, PromptedOutput
from stagekit.models.spm import SPMOutput
from stagekit.partition.partition import partition_module
from stagekit.quant.equalise import prepared
from stagekit.quant.positions import weight_of
from stagekit.quant.record import Calibration, load
from stagekit.quant.scheme import QuantScheme, scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.target import Progress, silent
from stagekit.targets import load_profile
from stagekit.tune.bundled import BundledBackbone, identity
from stagekit.tune.graph_module import GraphModule
from stagekit.tune.operators import dequantise, quantise
from stagekit.tune.sections import ThroughSection

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Edge:
    """How a boundary's feature is stored as integers, from ``low`` to ``high``."""

    scale: float
    zero: float
    low: int
    high: int

    @classmethod
    def of(cls, dtype: str, quantization: Quantization) -> Edge:
        info = np.iinfo(dtype)
        return cls(quantization.scale[0], quantization.zero_point[0], int(info.min), int(info.max))

    @property
    def range(self) -> Range:
        """The smallest and the largest real number that it holds."""
        return self.scale * (self.low - self.zero), self.scale * (self.high - self.zero)

    def store(self, x: Tensor) -> Tensor:
        return quantise(x, self.scale, self.zero, self.low, self.high)

    def restore(self, stored: Tensor) -> Tensor:
        return dequantise(stored, self.scale, self.zero)

    def round(self, x: Tensor) -> Tensor:
        """What arrives of ``x`` on the other side."""
        return self.restore(self.store(x.float()))


@dataclass(frozen=True)
class FrozenStages:
    """Stages as they will run, boundary by boundary.

    Args:
        graphs: one a segment; Q/DQ graphs where integers are simulated, else the float ones.
        edges: of the boundary behind each; None where it is float.
        simulate: whether integers are.
        entry: what a task tuned through them is bound to; None where they are floats.
    """

    graphs: tuple[Graph, ...]
    quantised: tuple[Graph, ...]
    edges: tuple[Edge | None, ...]
    simulate: bool
    entry: ThroughEntry | None


class FrozenBackbone(Backbone):
    """A backbone whose segments are graphs. Features are floats, on the grid of the boundary's integers."""

    def __init__(self, plain: Backbone, stages: FrozenStages, bounded: bool) -> None:
        modules = [GraphModule(graph) for graph in stages.graphs]
        super().__init__(plain.architecture, plain.preprocessing, plain.boundaries, modules, plain.size)
        self.edges = stages.edges
        self.simulate = stages.simulate
        self.bounds = [_ranges(graph, stages.simulate) if bounded else {} for graph in stages.quantised]
        self.excess: list[Tensor] = []

    def segment(self, index: int, x: Tensor) -> Tensor:
        """Runs one segment; segment 0 takes uint8 frames, its graph normalises them."""
        bounds = self.bounds[index] if torch.is_grad_enabled() else {}

        def see(name: str, value: Tensor) -> None:
            if name in bounds and value.requires_grad:
                self.excess.append(excess(value, bounds[name]))

        before, after = self.edges[index - 1] if index else None, self.edges[index]
        if self.simulate and before is not None:
            x = before.store(x.float())
        (y,) = cast(GraphModule, self.segments[index])(x, see=see)
        return after.restore(y) if self.simulate and after is not None else y

    def crossing(self, index: int, x: Tensor) -> Tensor:
        """What an SPM made of the feature at a boundary, as those behind it see it."""
        edge = self.edges[index]
        if edge is None:
            return x
        if self.bounds[index] and torch.is_grad_enabled():
            self.excess.append(excess(x.float(), edge.range))
        return edge.round(x) if self.simulate else x


class ThroughNetwork(PromptedNetwork):
    """A network over a frozen backbone in integers. It shares SPMs and head with the one that it was made from."""

    def __init__(self, network: PromptedNetwork, stages: FrozenStages, bound: float) -> None:
        if len(network.auxiliary):
            raise UsageError(
                "auxiliary heads read inside the stages, whose graphs have no units",
                where="head.auxiliary",
                remedy="leave them out to tune through a record",
            )
        super().__init__(FrozenBackbone(network.backbone, stages, bound > 0), network.spm_by_boundary, network.head)
        self.bound = bound
        self.freeze_backbone()

    @property
    def frozen(self) -> FrozenBackbone:
        return cast(FrozenBackbone, self.backbone)

    def penalty(self) -> Tensor:
        """``bound`` times how far the last pass left the ranges; see :func:`excess`. Summed over frozen tensors."""
        total = sum(self.frozen.excess, torch.zeros(()))
        self.frozen.excess = []
        return self.bound * total

    def _rest(self, prefix: Sequence[Tensor], size: tuple[int, int], taps: Mapping[str, Tensor]) -> PromptedOutput:
        self.frozen.excess = []
        names = [boundary.name for boundary in self.backbone.boundaries]
        handles = [
            spm.register_forward_hook(self._crossing(names.index(name))) for name, spm in self.spm_by_boundary.items()
        ]
        try:
            return super()._rest(prefix, size, taps)
        finally:
            for handle in handles:
                handle.remove()

    def _crossing(self, index: int) -> Any:
        def hook(module: nn.Module, inputs: object, output: SPMOutput) -> SPMOutput:
            return output._replace(prompted=self.frozen.crossing(index, output.prompted))

        return hook


def excess(values: Tensor, limits: Range) -> Tensor:
    """How far values lie outside a range, on average, in units of its width: 0 when all are inside."""
    low, high = limits
    return (values - values.clamp(low, high)).abs().mean() / max(high - low, 1e-12)


def frozen_stages(backbone: Backbone, section: ThroughSection, last: int, progress: Progress = silent) -> FrozenStages:
    """The stages of a backbone as the section's record and profiles quantise them.

    Args:
        last: index of the last segment that the task runs; it is bound to no later one.

    Raises:
        UsageError: the profiles store activations or weights differently.
        BundleError: the record is of other stages, or the stages of another backbone or size.
    """
    assert section.record is not None
    record = load(section.record)
    schemes = {name: scheme_of(load_profile(name)) for name in section.profiles}
    _check_alike(schemes)
    stages = _stages(backbone, section, record, progress)
    progress("quantising the stages")
    quantised = {name: quantise_stages(stages, record, scheme) for name, scheme in schemes.items()}
    first = quantised[section.profiles[0]]
    count = len(backbone.segments)
    edges = [first.edges.get(graph.outputs[0].name) for _, graph in stages[:count]]
    entry = ThroughEntry(
        record=record.name,
        stages={
            profile: {name: graph.fingerprint for (name, _), graph in zip(stages[: last + 1], q.graphs, strict=False)}
            for profile, q in quantised.items()
        },
    )
    return FrozenStages(
        graphs=first.graphs[:count] if section.simulate else tuple(graph for _, graph in stages[:count]),
        quantised=first.graphs[:count],
        edges=tuple(None if edge is None else Edge.of(*edge) for edge in edges),
        simulate=section.simulate,
        entry=entry if section.simulate else None,
    )


def last_segment(network: PromptedNetwork) -> int:
    """The index of the last segment that the network runs."""
    names = [boundary.name for boundary in network.backbone.boundaries]
    return max(names.index(name) for name in network.head.reads)


def _stages(
    backbone: Backbone, section: ThroughSection, record: Calibration, progress: Progress
) -> list[tuple[str, Graph]]:
    """(name, graph) of the stages that the record is for, equalised where it is."""
    bundled = backbone if isinstance(backbone, BundledBackbone) else None
    if bundled is not None and not bundled.everywhere:
        raise UsageError(
            "some of the stages end where no single feature map crosses; there is no tuning through those",
            where=bundled.folder,
            remedy="cut the model at single feature maps alone, or tune without a record",
        )
    with tempfile.TemporaryDirectory() as folder:
        named = section.stages or (bundled.folder if bundled else None)
        path = named or Path(folder) / "exported.stages"
        if named is None:
            manifest = partition_module(backbone, path, weights="as tuned", progress=progress)
        else:
            manifest = read_manifest(path, StagesManifest)
            _check_same(backbone, manifest, path)
        record.check_stages(manifest, section.record or path)
        # Weights are mapped from their files, so what lies in a folder that goes away is read now.
        graphs = [(entry.name, read_graph(path, entry).held()) for entry in manifest.stages]
    return [(name, prepared(graph, record.equalised)) for name, graph in graphs]


def _check_same(backbone: Backbone, manifest: StagesManifest, path: Path) -> None:
    wanted = identity(backbone)
    if manifest.backbone.id != wanted:
        raise BundleError(
            f"these stages are of the backbone {manifest.backbone.id[:16]}, the recipe's is {wanted[:16]}",
            where=path,
            remedy="partition the recipe's backbone, or name its stages in through.stages",
        )
    size = (manifest.frame.height, manifest.frame.width)
    if size != backbone.size:
        raise BundleError(f"these stages take frames of {size}, the recipe's backbone of {backbone.size}", where=path)


def _check_alike(schemes: Mapping[str, QuantScheme]) -> None:
    """Profiles may differ in how biases are stored, which changes no more than their last bit."""
    first, *others = schemes
    for other in others:
        if replace(schemes[other], bias=schemes[first].bias) != schemes[first]:
            raise UsageError(
                f"the profiles {first} and {other} store activations or weights in different formats",
                where="through.profiles",
                remedy="tune once for each, with one profile in through.profiles",
            )


def _ranges(quantised: Graph, simulate: bool) -> dict[str, Range]:
    """The range of every tensor that a Q/DQ graph quantises, by its name there, or in the float graph."""
    found: dict[str, Range] = {}
    for node in [n for n in quantised.body if n.op_type == "QuantizeLinear"]:
        scale, zero = weight_of(node.inputs[1]), weight_of(node.inputs[2])
        assert scale is not None
        assert zero is not None
        value = node.inputs[0]
        assert value is not None
        name = str(value.name)
        stored = zero.numpy()
        edge = Edge.of(stored.dtype.name, Quantization((float(scale.numpy()),), (int(stored),)))
        found[name if simulate else name.removesuffix("/float")] = edge.range
    return found
