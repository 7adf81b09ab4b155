"""An ONNX graph as a value: load, fingerprint, cut, simplify, shapes, cost, edges.

The names below are imported when they are first used: specs are needed everywhere, onnx is not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stagekit.graph.edges import with_edges
    from stagekit.graph.model import Graph, from_model, from_proto, load
    from stagekit.graph.spec import DTYPES, Quantization, TensorSpec
else:
    _HOMES = {
        "DTYPES": "spec",
        "Graph": "model",
        "Quantization": "spec",
        "TensorSpec": "spec",
        "from_model": "model",
        "from_proto": "model",
        "load": "model",
        "with_edges": "edges",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        globals()[name] = value
        return value


__all__ = ["DTYPES", "Graph", "Quantization", "TensorSpec", "from_model", "from_proto", "load", "with_edges"]
