"""Several graphs in one folder over one weight file, each distinct weight stored once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from stagekit.graph.fingerprint import tensor_bytes
from stagekit.graph.model import Graph, bring_inside

INLINE_BELOW: Final = 1024
"""Bytes below which a weight stays in the graph's own file."""

ALIGNMENT: Final = 4096
"""Weights start on page borders, so that runtimes can map them."""


def save_together(graphs: Mapping[str, Graph], folder: Path, weight_file: str) -> None:
    """Writes ``<name>`` for each graph into ``folder`` and all larger weights into one ``weight_file``.

    Weights are streamed: at no time is more than one of them copied in memory. What exporters note beside a graph
    (stack traces with the paths of the machine they ran on) is left out.
    """
    places: dict[str, tuple[int, int]] = {}
    with (folder / weight_file).open("wb") as stream:
        for name, graph in graphs.items():
            model = graph.edit()
            bring_inside(model)
            model = ClearMetadataAndDocStringPass()(model).model
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < INLINE_BELOW or tensor.dtype is ir.DataType.STRING:
                    continue
                content = tensor_bytes(tensor)
                key = hashlib.sha256(content).hexdigest()
                if key not in places:
                    stream.write(bytes(-stream.tell() % ALIGNMENT))
                    places[key] = (stream.tell(), content.nbytes)
                    stream.write(content)
                offset, length = places[key]
                value.const_value = ir.ExternalTensor(
                    weight_file,
                    offset,
                    length,
                    tensor.dtype,
                    shape=ir.Shape(tensor.shape.numpy()),
                    name=str(value.name),
                    base_dir=folder,
                )
            (folder / name).write_bytes(ir.to_proto(model).SerializeToString())
