"""Joining what was cut gives the function back."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from stagekit.bundle import StagesManifest, read_graph, read_manifest
from stagekit.errors import GraphError
from stagekit.graph import Graph
from stagekit.graph.join import join


def run(graph: Graph, *inputs: Any) -> list[Any]:
    session = onnxruntime.InferenceSession(graph.proto().SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip((v.name for v in session.get_inputs()), inputs, strict=True)))


@pytest.fixture
def stages(zoo: Any) -> list[Graph]:
    manifest = read_manifest(zoo.stages, StagesManifest)
    return [read_graph(zoo.stages, entry) for entry in manifest.stages]


def test_the_joined_chain_is_the_chain(stages: list[Graph]) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    value = [frame]
    for stage in stages:
        value = run(stage, *value)
    joined = join(stages)
    np.testing.assert_allclose(run(joined, frame)[0], value[0], rtol=1e-5, atol=1e-5)
    assert joined.inputs[0].name == stages[0].inputs[0].name
    assert [s.name for s in joined.outputs] == [s.name for s in stages[-1].outputs]


def test_a_chain_of_one_is_itself_and_joining_changes_no_operand(stages: list[Graph]) -> None:
    before = [s.fingerprint for s in stages]
    assert join(stages[:1]).fingerprint == before[0]
    assert join(stages).fingerprint == join(stages).fingerprint
    assert [Graph(s.model, s.source, s.layouts).fingerprint for s in stages] == before


def test_the_same_graph_twice_keeps_its_names_apart(stages: list[Graph]) -> None:
    unit = join(stages[1:2])
    with pytest.raises(GraphError, match="the graph before gives"):
        join([unit, unit])
    with pytest.raises(GraphError, match="nothing to join"):
        join([])
