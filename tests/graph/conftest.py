"""Small graphs written as text, and random networks to draw from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import strategies as st

from stagekit.graph import Graph, from_proto

Array = np.ndarray[Any, Any]
Build = Callable[..., Graph]

_HEADER = '<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]>'


def _proto(text: str, weights: Mapping[str, Array] | None = None, opset: int = 18) -> onnx.ModelProto:
    proto = onnx.parser.parse_model(_HEADER.format(opset=opset) + text)
    for name, array in (weights or {}).items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


@pytest.fixture(scope="session")
def proto() -> Callable[..., onnx.ModelProto]:
    """``proto("g (float[N,3] x) => (float[N,3] y) { y = Add(x, w) }", {"w": array}, opset=18)``."""
    return _proto


@pytest.fixture(scope="session")
def build() -> Build:
    """Likewise, as a graph."""

    def build(text: str, weights: Mapping[str, Array] | None = None, opset: int = 18) -> Graph:
        return from_proto(_proto(text, weights, opset), "test.onnx")

    return build


@pytest.fixture(scope="session")
def networks() -> st.SearchStrategy[Graph]:
    """Random networks over (N, 4, 5, 6) with residuals, shared weights, constants and nodes that nothing needs."""
    return _networks()


@st.composite
def _networks(draw: st.DrawFn, outputs: int = 1) -> Graph:
    generator = np.random.default_rng(draw(st.integers(0, 9)))
    weights = {f"w{k}": generator.normal(0, 0.4, (4, 4, k, k)).astype(np.float32) for k in (1, 3)}
    weights["wide"] = generator.normal(0, 0.4, (4, 8, 1, 1)).astype(np.float32)
    weights["c"] = generator.normal(0, 1, (4, 1, 1)).astype(np.float32)
    lines = ["c2 = Tanh(c)"]
    made = ["x"]

    def pick() -> str:
        return made[-1 - draw(st.integers(0, min(3, len(made) - 1)))]

    for index in range(draw(st.integers(2, 9))):
        name = f"t{index}"
        match draw(st.sampled_from(["relu", "conv1", "conv3", "add", "join", "scale"])):
            case "relu":
                lines.append(f"{name} = Relu({pick()})")
            case "conv1":
                lines.append(f"{name} = Conv({pick()}, w1)")
            case "conv3":
                lines.append(f"{name} = Conv<pads = [1, 1, 1, 1]>({pick()}, w3)")
            case "add":
                lines.append(f"{name} = Add({pick()}, {pick()})")
            case "join":
                lines.append(f"{name}_c = Concat<axis = 1>({pick()}, {pick()})")
                lines.append(f"{name} = Conv({name}_c, wide)")
            case "scale":
                lines.append(f"{name} = Mul({pick()}, c2)")
        made.append(name)
    text = f"g (float[N,4,5,6] x) => (float[N,4,5,6] {made[-1]}) {{ {chr(10).join(lines)} }}"
    return from_proto(_proto(text, weights), "random.onnx")
