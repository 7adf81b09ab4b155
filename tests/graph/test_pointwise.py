"""1x1 convolutions regrouped: the same numbers from fewer passes, and hands off where it would not be the same."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from stagekit.graph import Graph
from stagekit.graph.pointwise import regrouped

RANDOM = np.random.default_rng(0)


def conv(
    name: str, source: str, into: int, out: int, kernel: int = 1, **attributes: object
) -> tuple[onnx.NodeProto, list]:
    """A convolution with random weights that gives a tensor of its own name."""
    weights = [
        numpy_helper.from_array(RANDOM.standard_normal((out, into, kernel, kernel)).astype(np.float32), f"{name}.w"),
        numpy_helper.from_array(RANDOM.standard_normal(out).astype(np.float32), f"{name}.b"),
    ]
    return helper.make_node("Conv", [source, f"{name}.w", f"{name}.b"], [name], name=name, **attributes), weights


def graph(parts: Sequence[object], inputs: dict[str, int], outputs: Sequence[str]) -> Graph:
    """A graph of nodes, or (node, weights); inputs are (2, channels, 5, 7) by name."""
    nodes = [part[0] if isinstance(part, tuple) else part for part in parts]
    weights = [weight for part in parts if isinstance(part, tuple) for weight in part[1]]
    takes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, (2, c, 5, 7)) for n, c in inputs.items()]
    gives = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs]
    model = helper.make_model(
        helper.make_graph(nodes, "g", takes, gives, weights), opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    )
    return Graph(ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model)), "g.onnx")


def values(made: Graph, folder: Path) -> dict[str, np.ndarray]:
    made.save(folder / "g.onnx")
    session = ort.InferenceSession(str(folder / "g.onnx"), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    feeds = {i.name: random.standard_normal(i.shape).astype(np.float32) for i in session.get_inputs()}
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feeds), strict=True))


def checked(before: Graph, folder: Path) -> Counter[str]:
    """Operators after regrouping, once the numbers are known to be the same."""
    after = regrouped(before)
    want, have = values(before, folder), values(after, folder)
    assert list(want) == list(have)
    for name, value in want.items():
        np.testing.assert_allclose(have[name], value, rtol=1e-4, atol=1e-4)
    return Counter(node.op_type for node in after.model.graph)


CONCAT = helper.make_node("Concat", ["x", "m"], ["joined"], axis=1)


def test_concatenation_with_an_input_is_split(tmp_path: Path) -> None:
    made = graph([CONCAT, conv("y", "joined", 11, 4)], {"x": 8, "m": 3}, ["y"])
    assert checked(made, tmp_path) == {"Conv": 2, "Add": 1}


def test_two_in_a_row_become_one(tmp_path: Path) -> None:
    made = graph([conv("a", "x", 8, 8), conv("y", "a", 8, 3)], {"x": 8}, ["y"])
    assert checked(made, tmp_path) == {"Conv": 1}


def test_a_bottleneck_stays(tmp_path: Path) -> None:
    made = graph([conv("a", "x", 16, 2), conv("y", "a", 2, 16)], {"x": 16}, ["y"])
    assert checked(made, tmp_path) == {"Conv": 2}


@pytest.mark.parametrize("swapped", [False, True])
def test_prompt_and_feature_are_one_product(tmp_path: Path, swapped: bool) -> None:
    order = (lambda a, b: [b, a]) if swapped else (lambda a, b: [a, b])
    made = graph(
        [
            conv("w", "x", 8, 8),
            helper.make_node("Mul", order("x", "w"), ["p"]),
            helper.make_node("Add", order("x", "p"), ["y"]),
        ],
        {"x": 8},
        ["y"],
    )
    assert checked(made, tmp_path) == {"Conv": 1, "Mul": 1}


def test_what_others_read_stays(tmp_path: Path) -> None:
    made = graph(
        [
            conv("a", "x", 8, 8),
            conv("b", "a", 8, 8),
            helper.make_node("Mul", ["x", "b"], ["p"]),
            helper.make_node("Add", ["x", "p"], ["y"]),
        ],
        {"x": 8},
        ["y", "a", "b"],
    )
    assert checked(made, tmp_path) == {"Conv": 2, "Mul": 1, "Add": 1}


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [(1, {"strides": [2, 2]}), (1, {"pads": [1, 1, 1, 1]}), (3, {}), (3, {"pads": [1, 1, 1, 1]})],
)
def test_other_convolutions_stay(tmp_path: Path, kernel: int, attributes: dict[str, list[int]]) -> None:
    made = graph([conv("a", "x", 8, 8), conv("y", "a", 8, 4, kernel, **attributes)], {"x": 8}, ["y"])
    assert checked(made, tmp_path) == {"Conv": 2}


def test_concatenation_along_the_image_stays(tmp_path: Path) -> None:
    joined = helper.make_node("Concat", ["x", "m"], ["joined"], axis=2)
    made = graph([joined, conv("y", "joined", 8, 4)], {"x": 8, "m": 8}, ["y"])
    assert checked(made, tmp_path) == {"Concat": 1, "Conv": 1}
