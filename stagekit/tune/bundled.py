"""A backbone read from a ``.stages`` folder: whatever was partitioned can be tuned on, any ONNX model too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from stagekit.bundle import Boundary, StagesManifest, check_frames, read_graph, read_manifest
from stagekit.errors import BundleError
from stagekit.graph import Graph
from stagekit.graph.spec import BATCH
from stagekit.models.backbone import Backbone, BoundaryInfo, Preprocessing
from stagekit.models.identity import backbone_id, tensor_digest
from stagekit.tune.graph_module import GraphModule


@dataclass(frozen=True, slots=True)
class FixedBoundary(BoundaryInfo):
    """A boundary of graphs that are made for one size.

    Args:
        cells: its grid's (h, w).
    """

    cells: tuple[int, int] = (1, 1)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """(h, w), whatever the size: the frame has but one."""
        return self.cells


class Stretch(nn.Module):
    """Stages in a row, up to a boundary that a task can prompt or read.

    Args:
        graphs: of the stages.
        batched: they take any number of images at a time; otherwise one.
    """

    def __init__(self, graphs: list[Graph], batched: bool) -> None:
        super().__init__()
        self.stages = nn.ModuleList(GraphModule(graph) for graph in graphs)
        self.batched = batched

    def forward(self, x: Tensor) -> Tensor:
        """The feature at its end, for that at its beginning (frames as uint8 in the first)."""
        if self.batched or len(x) == 1:
            return self._run(x)
        return torch.cat([self._run(x[i : i + 1]) for i in range(len(x))])

    def _run(self, x: Tensor) -> Tensor:
        values: tuple[Tensor, ...] = (x,)
        for stage in self.stages:
            values = stage(*values)
        (feature,) = values
        return feature


class BundledBackbone(Backbone):
    """The frozen stages of a folder as torch modules, weights and graphs exactly those that are deployed.

    Its boundaries are those that a task can use, where a single feature map (or grid of tokens) crosses.

    Args:
        folder: the ``.stages`` folder.

    Raises:
        BundleError: it is damaged, takes no uint8 frames, or has no such boundary.
        GraphError: a stage has an operator that torch has no counterpart for here.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_manifest(folder, StagesManifest)
        check_frames(folder, manifest)
        stretches, boundaries = _stretches(manifest)
        if not boundaries:
            raise BundleError(
                "none of its boundaries is a single feature map, so there is nothing to prompt or to read",
                where=folder,
                remedy="cut it elsewhere: `stagekit partition MODEL.onnx --list` shows where",
            )
        batched = manifest.frame.spec.shape[0] == BATCH
        graphs = [read_graph(folder, entry).held() for entry in manifest.stages]
        stated = manifest.backbone.preprocessing
        super().__init__(
            {"stages": manifest.backbone.id},
            Preprocessing(stated["mean"], stated["std"]) if stated else Preprocessing((0.0,) * 3, (1.0,) * 3),
            boundaries,
            [Stretch([graphs[i] for i in stages], batched) for stages in stretches],
            (manifest.frame.height, manifest.frame.width),
        )
        self.folder = folder
        self.everywhere = all(len(stages) == 1 for stages in stretches)
        """Whether there is such a boundary behind each stage that it runs."""
        self._id, self._weights = manifest.backbone.id, self._digest()

    def segment(self, index: int, x: Tensor) -> Tensor:
        """Runs one stretch; the first takes uint8 frames, its graph normalises them."""
        result: Tensor = self.segments[index](x)
        return result

    def identity(self) -> str:
        """The backbone's id as its bundle states it; another one, should a weight have changed since."""
        digest = self._digest()
        return self._id if digest == self._weights else digest

    def _digest(self) -> str:
        facts = [f"{name} {w.dtype} {tuple(w.shape)} {tensor_digest(w)}" for name, w in self.named_buffers()]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()


def identity(backbone: Backbone) -> str:
    """Which backbone a task tuned on it is for: 64 hexadecimal digits."""
    return backbone.identity() if isinstance(backbone, BundledBackbone) else backbone_id(backbone)


def _stretches(manifest: StagesManifest) -> tuple[list[list[int]], list[FixedBoundary]]:
    """Indices of stages in rows that end at a boundary which a task can use, and these boundaries."""
    stretches: list[list[int]] = []
    boundaries: list[FixedBoundary] = []
    pending: list[int] = []
    for index, entry in enumerate(manifest.stages):
        pending.append(index)
        if _usable(entry.boundary):
            stretches.append(pending)
            boundaries.append(_fixed(entry.boundary, manifest.frame.height))
            pending = []
    return stretches, boundaries


def _usable(boundary: Boundary) -> bool:
    return len(boundary.tensors) == 1 and boundary.grid is not None and boundary.spec.dtype == "float32"


def _fixed(boundary: Boundary, height: int) -> FixedBoundary:
    assert boundary.grid is not None
    stride = max(round(height / boundary.grid[0]), 1)
    return FixedBoundary(
        boundary.name,
        boundary.channels,
        stride,
        "map" if boundary.prefix is None else "tokens",
        boundary.prefix or 0,
        boundary.grid,
    )
