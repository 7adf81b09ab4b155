"""Is a decoded model one that everything behind this can rely on? Files come from strangers.

After these checks a graph has known operators, no tensor that nothing makes, no cycle, and weights that are complete
and lie in the model's own folder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import onnx
import onnx_ir as ir

from stagekit.errors import GraphError
from stagekit.graph.fingerprint import in_order

STANDARD_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def check(model: ir.Model, source: str, folder: Path | None) -> None:
    """Every check of this file.

    Args:
        folder: where external weights must lie; ``None`` where there can be none.

    Raises:
        GraphError: names the first node, tensor or weight that is at fault.
    """
    check_operators(model, source)
    check_structure(model, source)
    check_weights(model, source, folder)


def check_operators(model: ir.Model, source: str) -> None:
    """Every operator must be one that ONNX (or ONNX Runtime's contrib set) knows.

    Raises:
        GraphError: names the first unknown node and counts the others.
    """
    version = model.opset_imports.get("")
    unknown: list[ir.Node] = []
    for node in model.graph.all_nodes():
        if node.domain == "":
            if version is None:
                raise GraphError("it does not say which ONNX opset it uses; is the file complete?", where=source)
            if not onnx.defs.has(node.op_type, max_inclusive_version=version):
                unknown.append(node)
        elif node.domain not in STANDARD_DOMAINS:
            unknown.append(node)
    if unknown:
        first = unknown[0]
        op = f"{first.domain}::{first.op_type}" if first.domain else first.op_type
        more = f" (and {len(unknown) - 1} more nodes)" if len(unknown) > 1 else ""
        raise GraphError(
            f"node {_title(first)!r} has the unknown operator {op}{more}",
            where=source,
            remedy="export with standard ONNX operators",
        )


def check_versions(model: ir.Model, source: str) -> None:
    """The file format and the operator set must be ones that the installed onnx knows.

    Raises:
        GraphError: they are not.
    """
    opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    known = onnx.defs.onnx_opset_version()
    if not 1 <= opset <= known:
        raise GraphError(
            f"it uses ONNX opset {opset}; the installed onnx knows 1 to {known}",
            where=source,
            remedy="export it with an older opset, or upgrade onnx and onnxruntime",
        )
    if model.ir_version > onnx.IR_VERSION:
        raise GraphError(
            f"it has version {model.ir_version} of ONNX's format; the installed onnx knows {onnx.IR_VERSION}",
            where=source,
            remedy="upgrade onnx and onnxruntime",
        )


def check_names(model: ir.Model, source: str) -> None:
    """Every name and description must be text: protobuf hands over bytes where a file has something else than UTF-8.

    Raises:
        GraphError: one is not.
    """
    for name in _texts(model):
        if not isinstance(name, str | None):
            raise GraphError(f"the text {name!r} is not UTF-8", where=source, remedy="is the file damaged?")


def _texts(model: ir.Model) -> Iterator[object]:
    yield from (*model.opset_imports, model.producer_name, model.producer_version, model.domain, model.doc_string)
    yield from _metadata(model)
    for graph in model.graphs():
        yield from (graph.name, graph.doc_string, *_metadata(graph))
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            yield from _value_texts(value)
        for node in graph:
            yield from (node.op_type, node.domain, node.overload, node.name, node.doc_string, *_metadata(node))
            for edge in (*node.inputs, *node.outputs):
                if edge is not None:
                    yield from _value_texts(edge)
            for attribute in node.attributes.values():
                yield from (attribute.name, attribute.doc_string)


def _value_texts(value: ir.Value) -> Iterator[object]:
    yield from (value.name, value.doc_string, *_metadata(value))
    yield from (d.value for d in value.shape or () if isinstance(d, ir.SymbolicDim))


def _metadata(holder: ir.Model | ir.Graph | ir.Node | ir.Value) -> Iterator[object]:
    for key, text in holder.metadata_props.items():
        yield from (key, text)


def check_structure(model: ir.Model, source: str) -> None:
    """Every tensor that is read must be made somewhere, and not out of itself.

    Raises:
        GraphError: names the tensor, or a node on the cycle.
    """
    for graph in model.graphs():
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type is ir.AttributeType.UNDEFINED:
                    raise GraphError(f"node {_title(node)!r} has {attribute.name!r} without a type", where=source)
            for value in node.inputs:
                if value is not None and not _is_made(value):
                    raise GraphError(
                        f"node {_title(node)!r} reads {value.name!r}, which nothing makes",
                        where=source,
                        remedy="if it is a sparse initializer, write it as a dense one: sparse ones are not read",
                    )
        for value in graph.outputs:
            if not _is_made(value):
                raise GraphError(f"nothing makes the output {value.name!r}", where=source)
        try:
            in_order(graph)
        except GraphError as error:
            raise GraphError(error.what, where=source) from error


def check_weights(model: ir.Model, source: str, folder: Path | None) -> None:
    """Weights must be as large as their shapes say; external ones must be complete and inside the model's folder.

    Raises:
        GraphError: names the weight and the file.
    """
    for name, tensor in tensors(model):
        if isinstance(tensor, ir.ExternalTensor):
            _check_external(name, tensor, source, folder)
        elif isinstance(tensor, ir.serde.TensorProtoTensor | ir.StringTensor):
            if any(d < 0 for d in tensor.shape.numpy()):
                raise GraphError(f"weight {name!r} has the shape {tensor.shape.numpy()}", where=source)
            try:
                tensor.numpy()
            except Exception as error:  # whatever numpy and onnx_ir say of bytes that do not fill the shape
                raise GraphError(f"weight {name!r} is damaged: {error}", where=source) from error


def tensors(model: ir.Model) -> Iterator[tuple[str, ir.TensorProtocol]]:
    """Every constant of a model with a name for it: initializers and attributes, those of loop bodies included."""
    for graph in model.graphs():
        for name, value in graph.initializers.items():
            if value.const_value is not None:
                yield name, value.const_value
        for node in graph:
            for attribute in node.attributes.values():
                if attribute.type is ir.AttributeType.TENSOR:
                    yield _title(node), attribute.as_tensor()
                elif attribute.type is ir.AttributeType.TENSORS:
                    for tensor in attribute.as_tensors():
                        yield _title(node), tensor


def _check_external(name: str, tensor: ir.ExternalTensor, source: str, folder: Path | None) -> None:
    location = PurePosixPath(tensor.location)
    outside = GraphError(f"weight {name!r} points outside the model's folder: {location}", where=source)
    if folder is None or location.is_absolute() or ".." in location.parts or "\0" in str(location):
        raise outside
    path = folder / location
    if not path.is_file():
        raise GraphError(f"the weight file {location} is missing; weight {name!r} is in it", where=source)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise outside
    status = path.stat()
    if status.st_nlink > 1:
        # A hard link cannot be told from a file outside, so onnx_ir refuses to map it.
        raise GraphError(
            f"the weight file {location} has further hard links, which may lie outside the model's folder",
            where=source,
            remedy=f"make it a file of its own: cp {location} copy && mv copy {location}",
        )
    offset, length = tensor.offset or 0, tensor.length
    wrong = offset < 0 or tensor.nbytes < 0 or (length is not None and length != tensor.nbytes)
    if wrong or offset + tensor.nbytes > status.st_size:
        raise GraphError(
            f"the weight file {location} is truncated or damaged: weight {name!r} has {tensor.nbytes} bytes, the model"
            f" gives it {'no length' if length is None else length} from byte {offset}, the file has {status.st_size}",
            where=source,
        )


def _is_made(value: ir.Value) -> bool:
    return value.producer() is not None or value.is_graph_input() or value.const_value is not None


def _title(node: ir.Node) -> str:
    return node.name or next((str(v.name) for v in node.outputs), node.op_type)
