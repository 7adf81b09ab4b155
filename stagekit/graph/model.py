"""An ONNX graph as a value.

A :class:`Graph` wraps an ``onnx_ir.Model`` that nobody changes after the graph is made: passes clone, edit
the clone and wrap it again. Weights in external files stay there and are mapped when they are read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, LiftConstantsToInitializersPass

from stagekit.errors import GraphError, StagekitError
from stagekit.graph.check import check, check_names, check_structure, check_versions
from stagekit.graph.fingerprint import graph_fingerprint, tensor_hashes
from stagekit.graph.spec import DTYPES, TensorSpec

PROTOBUF_LIMIT = 2**31 - 1
"""Bytes that one protobuf message can hold; a larger model keeps its weights beside it."""

WEIGHTS_APART = 4
"""The version of ONNX's file format from which on weights need not be listed among the inputs."""


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

    def with_layouts(self, layouts: Mapping[str, str]) -> Graph:
        """The same graph with other names of axes; what was hashed stays known, since they do not count."""
        named = replace(self, layouts=layouts)
        if "tensor_hashes" in self.__dict__:
            named.__dict__["tensor_hashes"] = self.tensor_hashes
        return named

    def edit(self) -> ir.Model:
        """A copy that may be changed; the weights are shared."""
        return self.model.clone()

    def held(self) -> Graph:
        """The same graph with its weights in memory, so that their files may go away."""
        return self.with_model(self._inside())

    def proto(self) -> onnx.ModelProto:
        """The graph as one protobuf message, weights inside.

        Raises:
            GraphError: the weights do not fit into one message (2 GB).
        """
        if not self._fits:
            raise GraphError("its weights do not fit into one protobuf message of 2 GB", where=self.source)
        return ir.to_proto(self._inside())

    def save(self, path: Path) -> None:
        """Writes the graph to one file, or with a ``.weights`` file beside it where it passes 2 GB."""
        if self._fits:
            path.write_bytes(self.proto().SerializeToString())
        else:
            ir.save(self._inside(), path, external_data=path.name + ".weights")

    @property
    def _fits(self) -> bool:
        return self.weight_bytes <= PROTOBUF_LIMIT - 2**24

    def _inside(self) -> ir.Model:
        model = self.edit()
        bring_inside(model)
        return model


def load(path: Path) -> Graph:
    """Reads an ONNX file; weights stay in their files until they are used.

    Raises:
        GraphError: missing, not ONNX, truncated, an unknown operator, or weights outside the file's folder.
    """
    if not path.is_file():
        raise GraphError("expected an ONNX file, found a folder" if path.is_dir() else "no such file", where=path)
    if path.stat().st_size == 0:
        raise GraphError("expected an ONNX model, found an empty file", where=path)
    try:
        with _quiet():
            return from_model(ir.load(path), str(path), path.parent)
    except StagekitError:
        raise
    except OSError as error:
        raise GraphError(f"cannot be read: {error.strerror}", where=path) from error
    except Exception as error:  # protobuf and onnx_ir raise many kinds for bytes that are not a model
        raise GraphError(
            f"expected an ONNX model; it cannot be decoded ({type(error).__name__})",
            where=path,
            remedy="check that the file is complete: `python -m onnx.checker` or a fresh export",
        ) from error


def from_model(model: ir.Model, source: str, folder: Path | None = None) -> Graph:
    """Checks a model and wraps it as a graph.

    One form for what can be written in several: local functions are written out in place, the standard domain
    is ``""``, Constant nodes are weights, weights that old files list among the inputs are weights alone, a
    dimension below 0, as some exporters write it, is an open one, and every node has a name of its own.

    Args:
        folder: where external weights must lie.

    Raises:
        GraphError: it is empty, has an unknown operator, a tensor that nothing makes, or damaged weights.
    """
    if not model.graph.outputs or not any(True for _ in model.graph):
        raise GraphError("expected an ONNX model with nodes and outputs, found an empty graph", where=source)
    check_names(model, source)
    check_versions(model, source)
    check_structure(model, source)
    model.graph.sort()
    if model.functions:
        try:
            InlinePass()(model)
        except Exception as error:  # onnx_ir raises several kinds for functions that do not fit their calls
            raise GraphError(f"its local functions cannot be written out: {error}", where=source) from error
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    imports = model.graph.opset_imports
    if (version := imports.pop("ai.onnx", None)) is not None:
        imports.setdefault("", version)
    for value in [v for v in model.graph.inputs if v.name in model.graph.initializers]:
        model.graph.inputs.remove(value)
    model.ir_version = max(model.ir_version, WEIGHTS_APART)
    for value in (*model.graph.inputs, *(v for node in model.graph.all_nodes() for v in node.outputs)):
        if value.shape is not None and any(isinstance(d, int) and d < 0 for d in value.shape):
            value.shape = ir.Shape([None if isinstance(d, int) and d < 0 else d for d in value.shape])
    check(model, source, folder)
    _name_nodes(model.graph)
    return Graph(model, source)


def _name_nodes(graph: ir.Graph) -> None:
    """Errors, profiles and calibration records speak of nodes; some exporters leave names out or repeat them."""
    seen: set[str] = set()
    for index, node in enumerate(graph):
        if not node.name or node.name in seen:
            node.name = f"{node.op_type.lower()}_{index}"
        seen.add(node.name)


def from_proto(proto: onnx.ModelProto, source: str) -> Graph:
    """Like :func:`from_model`, for a message whose weights are all inside."""
    return from_model(ir.from_proto(proto), source)


def internal(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The tensor as one that can be written into a model's own file; an external one stays mapped, not copied."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name)


def bring_inside(model: ir.Model) -> None:
    """Turns every external weight of a model (a copy, to be changed) into an internal one."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = internal(value.const_value)
        for node in graph:
            for name, attribute in list(node.attributes.items()):
                if attribute.type is ir.AttributeType.TENSOR:
                    node.attributes[name] = ir.AttrTensor(name, internal(attribute.as_tensor()))


@contextmanager
def _quiet() -> Iterator[None]:
    """onnx_ir logs what it finds odd in a file; :mod:`stagekit.graph.check` reports it as an error."""
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


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
