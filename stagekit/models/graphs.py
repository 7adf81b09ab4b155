"""A tuned task's parts as modules to export: one a graph, with maps in and out, sizes left open.

A task belongs to a backbone, not to an input size: height and width are symbols here, and become numbers where
the task is compiled. Token boundaries are turned into maps there as well, so that these graphs see maps only.
Each takes a snapshot of its part in evaluation mode; exporting changes nothing in the network.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from stagekit.models.heads import Head
from stagekit.models.prompted import PromptedNetwork
from stagekit.models.spm import SPM

Grid = tuple[int, int]


class SpmGraph(nn.Module):
    """An SPM: ``feature[, semantic]`` to ``prompted, semantic_out``, all maps.

    The first SPM of a task has no ``semantic`` input: M_0 is a constant inside it, in the bias of its first
    convolution. Later ones resize ``semantic`` at their entry.

    Attributes:
        inputs, outputs: names of the graph's tensors, in order.
        dims: for each input the names of its open axes.
    """

    # ONNX wants every name once, so the map that leaves is not named like the one that enters.
    outputs = ("prompted", "semantic_out")

    def __init__(self, spm: SPM) -> None:
        super().__init__()
        self.spm = copy.deepcopy(spm)
        self.spm.fold_prior()
        self.inputs = ("feature",) if spm.first else ("feature", "semantic")
        self.dims = ({0: "batch", 2: "h", 3: "w"}, {0: "batch", 2: "semantic_h", 3: "semantic_w"})[: len(self.inputs)]
        self.eval().requires_grad_(False)

    def forward(self, feature: Tensor, semantic: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The prompted feature (batch, c, h, w) and M after softmax (batch, s, h, w)."""
        output = self.spm(feature, semantic)
        return output.prompted, output.semantic

    def example(self, batch: int = 2, grid: Grid = (9, 11), before: Grid = (17, 22)) -> tuple[Tensor, ...]:
        """Random inputs, for exporters and checks."""
        feature = torch.randn(batch, self.spm.channels, *grid)
        if self.spm.first:
            return (feature,)
        return feature, torch.rand(batch, self.spm.classes, *before).softmax(dim=1)


class HeadGraph(nn.Module):
    """A head: one map for each boundary read, in the head's order, to ``logits`` (batch, s, h', w').

    Attributes:
        inputs, outputs: names of the graph's tensors; an input has its boundary's name.
        dims: for each input the names of its open axes.
    """

    outputs = ("logits",)

    def __init__(self, head: Head) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)
        self.inputs = head.reads
        self.dims = tuple({0: "batch", 2: f"{name}_h", 3: f"{name}_w"} for name in self.inputs)
        self.eval().requires_grad_(False)

    def forward(self, *features: Tensor) -> Tensor:
        """Logits of maps (batch, channels, h, w)."""
        logits: Tensor = self.head(list(features))
        return logits

    def example(self, batch: int = 2, height: int = 192, width: int = 256) -> tuple[Tensor, ...]:
        """Random maps as of frames of this size: which boundary is the finest decides the graph's structure."""
        return tuple(torch.randn(batch, b.channels, *b.grid(height, width)) for b in self.head.boundaries)


def spm_graphs(network: PromptedNetwork) -> dict[str, SpmGraph]:
    """The SPMs of a network by prompted boundary, in order."""
    graphs: dict[str, SpmGraph] = {}
    for name, spm in zip(network.prompted, network.spms, strict=True):
        assert isinstance(spm, SPM)
        graphs[name] = SpmGraph(spm)
    return graphs


def head_graph(network: PromptedNetwork) -> HeadGraph:
    """The head of a network."""
    return HeadGraph(network.head)
