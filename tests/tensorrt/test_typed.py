"""The exact file for the builder: sizes, bytes, names; and the configuration that goes with it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from stagekit_tensorrt import reference
from stagekit_tensorrt.config import ShapeRange, build_config
from stagekit_tensorrt.typed import bytes_cast_first, named, plan

from stagekit.errors import UsageError

from . import nets
from .conftest import MakeProfile


def test_bytes_are_cast_before_they_are_moved() -> None:
    graph = nets.stem()
    cast_first = bytes_cast_first(graph)
    assert [n.op_type for n in cast_first.body][:2] == ["Cast", "Transpose"]
    onnx.checker.check_model(cast_first.proto(), full_check=True)
    inputs = reference.sample(graph.inputs, 2)
    assert np.array_equal(reference.run(cast_first, inputs)["y"], reference.run(graph, inputs)["y"])
    assert graph.body[0].op_type == "Transpose", "the graph itself is not changed"
    assert graph.body[0].outputs[0].dtype == ir.DataType.UINT8


def test_every_node_gets_a_name_of_its_own() -> None:
    graph = nets.conv()
    model = graph.edit()
    for node in model.graph:
        node.name = "same"
    names = [node.name for node in named(graph.with_model(model)).body]
    assert len(set(names)) == len(names)


def test_one_batch_size_makes_a_fixed_graph(profile: MakeProfile) -> None:
    planned = plan(nets.conv(), nets.conv().inputs, nets.conv().outputs, profile(batch=(3,)))
    assert planned.graph.inputs[0].shape == (3, 8, 12, 12)
    assert planned.graph.outputs[0].shape == (3, 8, 12, 12)
    assert planned.config.shapes == {}


def test_several_batch_sizes_make_a_range(profile: MakeProfile) -> None:
    planned = plan(nets.conv(), nets.conv().inputs, nets.conv().outputs, profile(batch=(1, 4, 16)))
    assert planned.config.shapes == {"x": ShapeRange((1, 8, 12, 12), (4, 8, 12, 12), (16, 8, 12, 12))}


def test_int8_leaves_the_rest_as_the_profile_says(profile: MakeProfile) -> None:
    graph = nets.quantised()
    dtypes = {}
    for rest in ("f32", "fp16", "bf16"):
        planned = plan(graph, graph.inputs, graph.outputs, profile("int8", rest=rest))
        dtypes[rest] = next(n.inputs[0].dtype for n in planned.graph.body if n.op_type == "Conv")  # type: ignore[union-attr]
    assert [str(d) for d in dtypes.values()] == ["FLOAT", "FLOAT16", "BFLOAT16"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"builder": "tensorrt-rx"}, "builder cannot be 'tensorrt-rx'; did you mean 'tensorrt-rtx'"),
        ({"verbosity": "loud"}, "verbosity cannot be 'loud'"),
        ({"compute_capability": "ampere"}, "compute_capability must be e.g. 86"),
        ({"optimization_level": 6}, "optimization_level must be 0 to 5"),
        ({"workspace_mib": 0}, "workspace_mib must be at least 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(profile: MakeProfile, options: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        build_config(nets.conv().inputs, profile(**options))


def test_capabilities_may_be_written_with_or_without_a_dot(profile: MakeProfile) -> None:
    assert build_config((), profile(compute_capability="8.9, 86,120")).compute_capabilities == (86, 89, 120)
