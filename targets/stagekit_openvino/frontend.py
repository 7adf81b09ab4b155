"""Which nodes of a graph OpenVINO's ONNX reader has no conversion for."""

from __future__ import annotations

import tempfile
from pathlib import Path

from stagekit.graph import Graph
from stagekit.target import Unsupported


def without_conversion(graph: Graph) -> list[Unsupported]:
    """The nodes that stay what they were when the rest of the graph is converted."""
    from openvino.frontend import FrontEndManager

    frontend = FrontEndManager().load_by_framework("onnx")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        graph.save(path)
        model = frontend.convert_partially(frontend.load(str(path)))
        for node in model.get_ordered_ops():
            if node.get_type_name() == "ONNXFrameworkNode":
                op = str(node.get_attributes()["ONNX_META_type"])
                why = f"openvino's ONNX reader has no conversion for {op}"
                found.append(Unsupported(node.get_friendly_name(), op, why))
        del model
    return sorted(found, key=lambda node: node.node)
