"""What is exported runs in ONNX Runtime as it does in torch, for any batch and size, from either exporter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from stagekit.graph.shapes import bind
from stagekit.models.backbone import Backbone, BoundaryInfo
from stagekit.models.graphs import HeadGraph, SpmGraph, head_graph, spm_graphs
from stagekit.models.heads import LightHead, PPMHead, PUPHead
from stagekit.models.presets import create_spms
from stagekit.models.prompted import PromptedNetwork
from stagekit.models.spm import SPM
from stagekit.partition.from_torch import export
from stagekit.partition.verify import run_graph

MAP, COARSE = BoundaryInfo("stage1", 16, 4), BoundaryInfo("stage2", 24, 8)
TOKENS, LATER_TOKENS = (BoundaryInfo(f"unit{k}", 16, 16, "tokens", prefix=1) for k in (4, 8))
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1])

Graph = SpmGraph | HeadGraph
GRAPHS: dict[str, Callable[[], Graph]] = {
    "first SPM": lambda: SpmGraph(SPM(16, 4, 8, prior=PRIOR)),
    "later SPM": lambda: SpmGraph(SPM(16, 4, 8)),
    "SPM with options": lambda: SpmGraph(SPM(16, 4, 8, norm="batch", activation="gelu", prompt="additive")),
    "PPM head": lambda: HeadGraph(PPMHead(MAP, 4, width=8)),
    "PUP head": lambda: HeadGraph(PUPHead(TOKENS, 4, 2, width=8, layer_norm=True)),
    "light head": lambda: HeadGraph(LightHead([MAP, COARSE], 4)),
    "light head on equal grids": lambda: HeadGraph(LightHead([TOKENS, LATER_TOKENS], 4)),
}


def other_size(graph: Graph, batch: int) -> tuple[torch.Tensor, ...]:
    return graph.example(batch, (12, 10), (24, 19)) if isinstance(graph, SpmGraph) else graph.example(batch, 320, 144)


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("name", GRAPHS)
def test_an_exported_graph_is_the_module_for_every_batch_and_size(
    name: str, exporter: Literal["dynamo", "torchscript"]
) -> None:
    torch.manual_seed(0)
    module = GRAPHS[name]()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    graph = export(module, module.example(), module.inputs, module.outputs, module.dims, exporter)
    assert tuple(s.name for s in graph.inputs) == module.inputs
    assert tuple(s.name for s in graph.outputs) == module.outputs
    assert all(isinstance(d, str) for s in graph.inputs for axis, d in enumerate(s.shape) if axis != 1)
    for inputs in (module.example(1), module.example(3), other_size(module, 2)):
        outputs = module(*inputs)
        expected = outputs if isinstance(outputs, tuple) else (outputs,)
        free = run_graph(graph, [x.numpy() for x in inputs])
        shapes = {n: ("batch", *x.shape[1:]) for n, x in zip(module.inputs, inputs, strict=True)}
        bound = run_graph(bind(graph, shapes), [x.numpy() for x in inputs])
        for output, wanted in zip(module.outputs, expected, strict=True):
            np.testing.assert_allclose(free[output], wanted.numpy(), atol=1e-5)
            np.testing.assert_allclose(bound[output], wanted.numpy(), atol=1e-5)
    for node in graph.body:
        if node.op_type == "Resize":
            assert node.attributes["mode"].value == "linear"
            assert node.attributes["coordinate_transformation_mode"].value == "half_pixel"
    assert not {node.op_type for node in graph.body} & {"Loop", "If", "AveragePool", "GlobalAveragePool"}


def test_the_first_spm_needs_no_shape_of_its_input() -> None:
    # M_0 is a bias: nothing has to be spread over a batch of unknown size.
    module = GRAPHS["first SPM"]()
    graph = export(module, module.example(), module.inputs, module.outputs, module.dims)
    assert {n.op_type for n in graph.body} == {"Conv", "Split", "Concat", "Softmax", "Mul", "Add"}
    assert [s.name for s in graph.inputs] == ["feature"]


def test_exporting_leaves_the_network_as_it_was(conv_backbone: Backbone) -> None:
    spms = create_spms([conv_backbone.boundaries[0], conv_backbone.boundaries[-1]], 4, PRIOR, "small")
    network = PromptedNetwork(conv_backbone, spms, LightHead(conv_backbone.boundaries[1:], 4)).train()
    state = {name: value.clone() for name, value in network.state_dict().items()}
    assert list(spm_graphs(network)) == ["stem", "stage3"]
    assert head_graph(network).inputs == ("stage1", "stage2", "stage3")
    assert network.training
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
