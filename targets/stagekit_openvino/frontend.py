"""Which nodes of a graph OpenVINO's ONNX reader has no conversion for."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

from stagekit.graph import Graph
from stagekit.target import Unsupported
from stagekit_openvino.message import gist

UNCONVERTED = re.compile(r"No conversion rule found for operations?: (.+)")
"""The reader's summary, e.g. ``Det-17, com.acme.Foo-1``: domain, operator and version."""


def without_conversion(core: Any, graph: Graph) -> list[Unsupported]:
    """The nodes that the reader refuses; one without a node where it refuses the graph for another reason."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        graph.save(path)
        try:
            core.read_model(str(path))
        except RuntimeError as error:
            return _named(graph, str(error))
    return []


def _named(graph: Graph, message: str) -> list[Unsupported]:
    summary = UNCONVERTED.search(message)
    operators = [name.strip() for name in summary[1].split(",")] if summary else []
    kinds = {name.rpartition("-")[0].rpartition(".")[2] for name in operators}
    nodes = [node for node in graph.model.graph.all_nodes() if node.op_type in kinds]
    if not nodes:
        return [Unsupported("", "", gist(message))]
    why = "openvino's ONNX reader has no conversion for {}"
    return [Unsupported(n.name or str(n.outputs[0].name), n.op_type, why.format(n.op_type)) for n in nodes]
