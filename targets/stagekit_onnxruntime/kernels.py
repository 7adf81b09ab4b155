"""Which nodes of a graph have no kernel in ONNX Runtime's CPU provider, found without building a session."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from typing import Any

import onnx
import onnx_ir as ir

from stagekit.graph import Graph
from stagekit.target import Unsupported


def without_kernel(graph: Graph) -> list[Unsupported]:
    """The nodes that ONNX Runtime would refuse with NOT_IMPLEMENTED.

    An operator that ONNX defines as a function of others counts as supported: ONNX Runtime writes it out.
    """
    opsets = graph.model.opset_imports
    found = []
    for node in graph.model.graph.all_nodes():
        domain = "" if node.domain == "ai.onnx" else node.domain
        schema = _schema(node.op_type, domain, opsets.get(domain, 1))
        if _is_function(schema):
            continue
        since = schema.since_version if schema is not None else opsets.get(domain, 1)
        kernels = [k for k in _kernels()[domain, node.op_type] if k.version_range[0] <= since <= k.version_range[1]]
        types = _types(node, schema)
        if not any(_takes(kernel, types) for kernel in kernels):
            what = f"with {', '.join(sorted(set(types.values())))}" if kernels and types else f"at opset {since}"
            why = f"onnxruntime has no CPU kernel for {node.op_type} {what}"
            found.append(Unsupported(node.name or str(node.outputs[0].name), node.op_type, why))
    return found


@cache
def _kernels() -> dict[tuple[str, str], list[Any]]:
    """The provider's kernels as (version_range, type_constraints), by domain and operator."""
    from onnxruntime.capi import onnxruntime_pybind11_state

    table: dict[tuple[str, str], list[Any]] = defaultdict(list)
    for kernel in onnxruntime_pybind11_state.get_all_opkernel_def():
        if kernel.provider == "CPUExecutionProvider":
            table[kernel.domain, kernel.op_name].append(kernel)
    return table


def _is_function(schema: Any) -> bool:
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def _schema(op: str, domain: str, opset: int) -> onnx.defs.OpSchema | None:
    return onnx.defs.get_schema(op, opset, domain) if onnx.defs.has(op, opset, domain) else None


def _types(node: ir.Node, schema: onnx.defs.OpSchema | None) -> dict[str, str]:
    """The type bound to each of the schema's type parameters (``T`` and so on), where it is known."""
    if schema is None:
        return {}
    types = {}
    for values, formals in ((node.inputs, schema.inputs), (node.outputs, schema.outputs)):
        for value, formal in zip(values, formals, strict=False):
            if value is not None and value.dtype is not None:
                types[formal.type_str] = f"tensor({value.dtype.name.lower()})"
    return types


def _takes(kernel: Any, types: dict[str, str]) -> bool:
    return all(types.get(name, allowed[0]) in allowed for name, allowed in kernel.type_constraints.items() if allowed)
