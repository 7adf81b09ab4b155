"""Any ONNX file to a graph that can be cut: static size, frames, boundaries that keep their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
import onnx_ir as ir

from stagekit.errors import GraphError, UsageError, nearest
from stagekit.graph import Graph
from stagekit.graph.model import spec_of
from stagekit.graph.shapes import BATCH, bind


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(x - mean) / std`` per channel, in units of 0..255, to put in front of a model that wants floats."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __post_init__(self) -> None:
        if not all(isfinite(v) for v in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise UsageError(f"mean {self.mean} and std {self.std} must be numbers, std above 0", where="--mean, --std")


def normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalisation | None:
    """Both or neither.

    Raises:
        UsageError: one alone, or not three numbers each.
    """
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise UsageError("mean and std go together", where="--mean, --std")
    if len(mean) != 3 or len(std) != 3:
        raise UsageError("mean and std are three numbers each, for R, G and B", where="--mean, --std")
    return Normalisation((mean[0], mean[1], mean[2]), (std[0], std[1], std[2]))


def image_layout(shape: Sequence[int | str]) -> str:
    """``NHWC`` if the last of four dimensions alone can be that of colours, else ``NCHW``."""
    return "NHWC" if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) else "NCHW"


def fix_size(graph: Graph, size: tuple[int, int] | None) -> Graph:
    """The graph with a static image size and a symbolic batch.

    Raises:
        UsageError: the size is open in the model and was not given, or is fixed and differs.
        GraphError: not one image input.
    """
    if len(graph.inputs) != 1 or len(graph.inputs[0].shape) != 4:
        raise GraphError(
            "expected one input of four dimensions (an image), found " + ("; ".join(map(str, graph.inputs)) or "none"),
            where=graph.source,
        )
    spec = graph.inputs[0]
    axes = (1, 2) if image_layout(spec.shape) == "NHWC" else (2, 3)
    shape: list[int | str] = list(spec.shape)
    for axis, wanted in zip(axes, size or (None, None), strict=True):
        have = shape[axis]
        if isinstance(have, str) and wanted is None:
            raise UsageError(f"its input {spec} has no fixed size", where=graph.source, remedy="give --input HxW")
        if isinstance(have, int) and wanted is not None and have != wanted:
            raise UsageError(f"its input is fixed to {spec.shape}, --input asks for {size}", where=graph.source)
        if wanted is not None:
            shape[axis] = wanted
    if any(isinstance(d, str) for d in shape[1:]):
        raise UsageError(f"its input {spec} has an open channel dimension", where=graph.source)
    if 0 in shape:
        raise GraphError(f"its input {spec} holds nothing", where=graph.source)
    batched = _bound(graph, spec.name, [BATCH, *shape[1:]])
    fixed = spec.shape[0]
    if isinstance(fixed, str) or all(o.shape and o.shape[0] == BATCH for o in batched.outputs):
        return batched
    # The size of its batch is written into the graph, in a Reshape say: it cannot take another.
    return _bound(graph, spec.name, shape)


def _bound(graph: Graph, name: str, shape: Sequence[int | str]) -> Graph:
    """:func:`bind`, also where the model itself says that the batch is one."""
    model = graph.edit()
    value = next(v for v in model.graph.inputs if v.name == name)
    value.shape = ir.Shape(shape)
    return bind(Graph(model, graph.source), {name: tuple(shape)})


def take_frames(graph: Graph, normalisation: Normalisation) -> Graph:
    """The graph with uint8 NHWC frames as its input, normalised inside.

    Raises:
        GraphError: its input is not float32 (batch, 3, height, width).
    """
    spec = graph.inputs[0]
    if spec.dtype != "float32" or spec.shape[1] != 3:
        raise GraphError(
            f"--mean and --std need a model over float32 (batch, 3, height, width), found {spec}", where=graph.source
        )
    batch, _, height, width = spec.shape
    model = graph.edit()
    old = next(v for v in model.graph.inputs if v.name == spec.name)
    taken = {str(v.name) for node in model.graph for v in node.outputs} | set(model.graph.initializers)
    name = next(n for n in ("frames", "frames_uint8", "stagekit_frames") if n not in taken)
    frames = ir.val(name, ir.DataType.UINT8, ir.Shape([batch, height, width, 3]))
    mean, scale = (
        ir.tensor(np.asarray(values, np.float32).reshape(1, 3, 1, 1), name=f"frames/{name}")
        for name, values in (("mean", normalisation.mean), ("scale", [1 / s for s in normalisation.std]))
    )
    constants = [
        ir.Value(name=t.name, const_value=t, shape=ir.Shape([1, 3, 1, 1]), type=ir.TensorType(t.dtype))
        for t in (mean, scale)
    ]
    for constant in constants:
        model.graph.register_initializer(constant)
    transpose = ir.node("Transpose", [frames], {"perm": [0, 3, 1, 2]}, name="frames/transpose")
    cast = ir.node("Cast", [transpose.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name="frames/cast")
    sub = ir.node("Sub", [cast.outputs[0], constants[0]], name="frames/sub")
    mul = ir.node("Mul", [sub.outputs[0], constants[1]], name="frames/mul")
    for node in (transpose, cast, sub, mul):
        node.outputs[0].name = f"{node.name}/out"
    first = next(iter(model.graph))
    old.replace_all_uses_with(mul.outputs[0])
    model.graph.inputs[list(model.graph.inputs).index(old)] = frames
    model.graph.insert_before(first, [transpose, cast, sub, mul])
    return bind(Graph(model, graph.source), {name: (batch, height, width, 3)})


def expose(graph: Graph, tensors: Sequence[str]) -> Graph:
    """The graph with inner tensors as further outputs, so that simplification keeps them.

    Raises:
        GraphError: a tensor does not exist or its shape is not known.
    """
    model = graph.edit()
    values = {str(v.name): v for node in model.graph for v in node.outputs}
    for name in tensors:
        if name not in values:
            raise GraphError(f"no tensor is called {name!r}" + nearest(name, list(values)), where=graph.source)
        spec_of(values[name], graph.source)
        if not values[name].is_graph_output():
            model.graph.outputs.append(values[name])
    return Graph(model, graph.source)
