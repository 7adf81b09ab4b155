"""Old operator sets: Q/DQ nodes and 16-bit integers need newer ones than many files have."""

from __future__ import annotations

from typing import Final

import onnx
from onnx import version_converter

from stagekit.errors import GraphError
from stagekit.graph.model import Graph, from_proto

MODERN: Final = 18
"""From here on, what a graph is made of can be raised further without a change of meaning."""


def modernised(graph: Graph) -> Graph:
    """The same computation in opset 18, as ONNX's own converter writes it; the graph itself where it cannot.

    A converter may err, so the caller compares the two.
    """
    if graph.model.opset_imports.get("", MODERN) >= MODERN:
        return graph
    try:
        converted: onnx.ModelProto = version_converter.convert_version(graph.proto(), MODERN)
        return from_proto(converted, graph.source)
    except (GraphError, RuntimeError, ValueError, version_converter.ConvertError):
        return graph
