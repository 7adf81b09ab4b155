"""An ONNX graph as a value.

A :class:`Graph` wraps an ``onnx_ir.Model`` that nobody changes after the graph is made: passes clone, edit
the clone and wrap it again. Weights in external files stay there and are mapped when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from stagekit.errors import GraphError
from stagekit.graph.fingerprint import graph_fingerprint, tensor_hashes
from stagekit.graph.spec import DTYPES, TensorSpec

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can hold; a larger model keeps its weights beside it."""

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable ONNX graph; two graphs are the same when their fingerprints are.

    Args:
        model: never changed after this; :meth:`edit` gives a copy to work on.
        source: the file it came from, for messages.
        layouts: names of the axes of inputs and outputs where they are known, e.g. ``{"frames": "NHWC"}``;
            ONNX has no place for them, and they do not count in the fingerprint.
    """

    model: ir.Model
    source: str = ""
    layouts: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> ir.Graph:
        return self.model.graph

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Specs of the inputs that are not weights, in order."""
        return tuple(self._spec(v) for v in self.body.inputs if v.name not in self.body.initializers)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._spec(v) for v in self.body.outputs)

    def _spec(self, value: ir.Value) -> TensorSpec:
        spec = spec_of(value, self.source)
        return replace(spec, layout=self.layouts.get(spec.name, ""))

    @cached_property
    def tensor_hashes(self) -> dict[str, str]:
        """The Merkle hash of every tensor, by its name in this graph."""
        return tensor_hashes(self.body)

    @cached_property
    def fingerprint(self) -> str:
        """64 hex digits; see :mod:`stagekit.graph.fingerprint`."""
        return graph_fingerprint(self.body, self.inputs, self.outputs, self.tensor_hashes)

    @property
    def weight_bytes(self) -> int:
        return sum(v.const_value.nbytes for v in self.body.initializers.values() if v.const_value is not None)

    def with_model(self, model: ir.Model) -> Graph:
        """A graph over an edited copy."""
        return replace(self, model=model)

    def edit(self) -> ir.Model:
        """A copy that may be changed; the weights are shared."""
        return self.model.clone()

    def proto(self) -> onnx.ModelProto:
        """The graph as one protobuf message, weights inside.

        Raises:
            GraphError: the weights do not fit into one message (2 GB).
        """
        if self.weight_bytes > PROTOBUF_LIMIT - 2**24:
            raise GraphError("its weights do not fit into one protobuf message of 2 GB", where=self.source)
        model = self.edit()
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=value.name)
        return ir.to_proto(model)

    def save(self, path: Path) -> None:
        """Writes the graph to one file, or with a ``.weights`` file beside it where it passes 2 GB."""
        if self.weight_bytes > PROTOBUF_LIMIT - 2**24:
            ir.save(self.edit(), path, external_data=path.name + ".weights")
        else:
            path.write_bytes(self.proto().SerializeToString())


def load(path: Path) -> Graph:
    """Reads an ONNX file; weights stay in their files until they are used.

    Raises:
        GraphError: missing, not ONNX, truncated, an unknown operator, or weights outside the file's folder.
    """
    if not path.is_file():
        raise GraphError("no such file", where=path)
    if path.stat().st_size == 0:
        raise GraphError("expected an ONNX model, found an empty file", where=path)
    try:
        model = ir.load(path)
    except Exception as error:  # protobuf and onnx_ir raise many kinds for bytes that are not a model
        raise GraphError(
            f"expected an ONNX model; it cannot be decoded ({type(error).__name__})",
            where=path,
            remedy="check that the file is complete: `python -m onnx.checker` or a fresh export",
        ) from error
    return from_model(model, str(path), path.parent)


def from_model(model: ir.Model, source: str, folder: Path | None = None) -> Graph:
    """Checks a model and wraps it as a graph; local functions are written out in place.

    Args:
        folder: where external weights must lie.
    """
    if not model.graph.outputs or not any(True for _ in model.graph):
        raise GraphError("expected an ONNX model with nodes and outputs, found an empty graph", where=source)
    if model.functions:
        model = InlinePass()(model.clone()).model
    check_operators(model, source)
    check_external_weights(model, source, folder)
    return Graph(model, source)


def from_proto(proto: onnx.ModelProto, source: str) -> Graph:
    return from_model(ir.from_proto(proto), source)


def check_operators(model: ir.Model, source: str) -> None:
    """Every operator must be one that ONNX (or ONNX Runtime's contrib set) knows.

    Raises:
        GraphError: names the first unknown node and counts the others.
    """
    unknown: list[ir.Node] = []
    for node in model.graph.all_nodes():
        if node.domain in ("", "ai.onnx"):
            version = model.opset_imports.get("", 1)
            if not onnx.defs.has(node.op_type, max_inclusive_version=version):
                unknown.append(node)
        elif node.domain not in STANDARD_DOMAINS:
            unknown.append(node)
    if unknown:
        first = unknown[0]
        op = f"{first.domain}::{first.op_type}" if first.domain else first.op_type
        more = f" (and {len(unknown) - 1} more nodes)" if len(unknown) > 1 else ""
        raise GraphError(
            f"node {first.name or first.outputs[0].name!r} has the unknown operator {op}{more}",
            where=source,
            remedy="export with standard ONNX operators",
        )


def check_external_weights(model: ir.Model, source: str, folder: Path | None) -> None:
    """External weights must lie inside the model's own folder and be complete.

    Raises:
        GraphError: a path that leaves the folder, a missing or a truncated file.
    """
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if not isinstance(tensor, ir.ExternalTensor):
            continue
        location = PurePosixPath(tensor.location)
        if location.is_absolute() or ".." in location.parts or folder is None:
            raise GraphError(f"weight {value.name!r} points outside the model's folder: {location}", where=source)
        path = folder / location
        if not path.is_file():
            raise GraphError(f"the weight file {location} is missing", where=source)
        if not path.resolve().is_relative_to(folder.resolve()):
            raise GraphError(f"weight {value.name!r} points outside the model's folder: {location}", where=source)
        offset, length, size = tensor.offset or 0, tensor.length, path.stat().st_size
        end = offset + (length if length is not None else tensor.nbytes)
        if end > size or offset < 0 or (length is not None and length != tensor.nbytes):
            raise GraphError(
                f"the weight file {location} is truncated or damaged: weight {value.name!r} needs bytes"
                f" {offset} to {end} ({tensor.nbytes} of them), the file has {size}",
                where=source,
            )


def spec_of(value: ir.Value, source: str = "") -> TensorSpec:
    """A value's name, type and shape as a spec.

    Raises:
        GraphError: its rank or type is unknown, or of a kind that no boundary can have.
    """
    name = str(value.name)
    if value.dtype is None or value.shape is None:
        raise GraphError(f"the type or shape of tensor {name!r} is not known", where=source)
    dtype = {"FLOAT": "float32", "FLOAT16": "float16", "BFLOAT16": "bfloat16"}.get(
        value.dtype.name, value.dtype.name.lower()
    )
    if dtype not in DTYPES:
        raise GraphError(
            f"tensor {name!r} has the element type {value.dtype.name}, which no edge can have", where=source
        )
    dims = tuple(d if isinstance(d, int) else str(d.value or f"{name}_{i}") for i, d in enumerate(value.shape))
    return TensorSpec(name, dtype, dims)


IR_DTYPES: dict[str, ir.DataType] = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "bfloat16": ir.DataType.BFLOAT16,
    **{name: ir.DataType[name.upper()] for name in ("uint8", "int8", "int16", "int32", "int64", "bool")},
}
"""onnx_ir's element type for each of ours."""
