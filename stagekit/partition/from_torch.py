"""A torch module to a graph: the only door from torch to everything behind it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from stagekit import graph
from stagekit.errors import GraphError
from stagekit.graph import Graph
from stagekit.graph.shapes import BATCH, bind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stagekit.models.backbone import Backbone

Exporter = Literal["dynamo", "torchscript"]

OPSET = 18
"""Old enough for every runtime served here, new enough for antialias-free Resize and ReduceMean on axes."""

DimNames = Mapping[int, str]


def export(
    module: nn.Module,
    example: Sequence[Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dims: Sequence[DimNames],
    exporter: Exporter = "dynamo",
) -> Graph:
    """Exports a module to a graph with named inputs, outputs and symbolic dimensions.

    Args:
        example: inputs to trace with; sizes of symbolic dimensions must be 2 or more, and differ where the
            dimensions do.
        dims: for each input the names of its symbolic axes, e.g. ``{0: "batch"}``.
        exporter: torch's ``dynamo`` exporter keeps the weights where they are; ``torchscript`` is the older one.

    Raises:
        GraphError: torch cannot export the module.
    """
    module = module.eval()
    try:
        with _quiet(), torch.no_grad():
            if exporter == "dynamo":
                model = _dynamo(module, tuple(example), inputs, outputs, dims)
            else:
                model = _torchscript(module, tuple(example), inputs, outputs, dims)
    except Exception as error:  # the exporters raise many kinds; the cause is kept
        raise GraphError(
            f"torch's {exporter} exporter cannot export it: {error}", where=type(module).__name__
        ) from error
    for value, names in zip(model.graph.inputs, dims, strict=True):
        assert value.shape is not None
        value.shape = ir.Shape([names.get(axis, d) for axis, d in enumerate(value.shape)])
    return graph.from_model(model, f"<{type(module).__name__}>", Path())


def export_backbone(backbone: Backbone, height: int, width: int, exporter: Exporter = "dynamo") -> Graph:
    """The backbone over uint8 frames (batch, height, width, 3); an output for every boundary, by its name."""
    names = [b.name for b in backbone.boundaries]
    backbone.prepare(height, width)
    example = torch.randint(0, 255, (2, height, width, 3), dtype=torch.uint8)
    exported = export(_Tuple(backbone), [example], ["frames"], names, [{0: BATCH}], exporter)
    return bind(exported, {"frames": (BATCH, height, width, 3)})


def run_backbone(backbone: Backbone, frames: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The backbone's own features of frames, by boundary: what an export must reproduce."""
    with torch.inference_mode():
        features = backbone.eval()(torch.from_numpy(frames))
    return {info.name: f.numpy() for info, f in zip(backbone.boundaries, features, strict=True)}


class _Tuple(nn.Module):
    """Exporters want tuples where networks give lists."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.inner(*args))


def _dynamo(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dims: Sequence[DimNames],
) -> ir.Model:
    shapes = tuple(dict.fromkeys(names, torch.export.Dim.DYNAMIC) for names in dims)
    program: Any = torch.export.export(module, example, dynamic_shapes=_per_argument(module, shapes), strict=False)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(inputs),
        output_names=list(outputs),
        verbose=False,
    )
    assert exported is not None
    model: ir.Model = exported.model
    return model


def _per_argument(module: nn.Module, shapes: tuple[dict[int, Any], ...]) -> Any:
    """torch.export wants one entry a parameter of ``forward``; a ``*args`` parameter takes them as one tuple."""
    import inspect

    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    return (shapes,) if inspect.Parameter.VAR_POSITIONAL in kinds else shapes


def _torchscript(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    dims: Sequence[DimNames],
) -> ir.Model:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        torch.onnx.export(
            module,
            example,
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: dict(axes) for name, axes in zip(inputs, dims, strict=True)},
        )
        model = ir.load(path)
        ir.external_data.load_to_model(model)
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporters print progress and warn about their own internals; errors still come through."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    with warnings.catch_warnings(), redirect_stdout(StringIO()):
        warnings.simplefilter("ignore")
        log.setLevel(logging.ERROR)
        try:
            yield
        finally:
            log.setLevel(level)
