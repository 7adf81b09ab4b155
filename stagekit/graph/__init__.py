"""An ONNX graph as a value: load, fingerprint, cut, simplify, shapes, cost, edges."""

from stagekit.graph.edges import with_edges
from stagekit.graph.model import Graph, from_model, from_proto, load
from stagekit.graph.spec import DTYPES, Quantization, TensorSpec

__all__ = ["DTYPES", "Graph", "Quantization", "TensorSpec", "from_model", "from_proto", "load", "with_edges"]
