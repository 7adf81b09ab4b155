"""The chain of stages against the uncut model, in ONNX Runtime at float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.bundle import StagesManifest, read_graph, read_manifest
from stagekit.errors import BundleError, GraphError
from stagekit.graph import Graph, TensorSpec
from stagekit.quant.unasked import ask_for_exact_products

TOLERANCE = 1e-5
"""Largest relative error that a float32 chain may have."""

HALF = {"float16": 2.0**-7, "bfloat16": 2.0**-4}
"""The same where a tensor is stored in half: eight units in the last place, since every cut adds a rounding."""

ROUNDING = 2.0**-21
"""Four units in the last place of 1 at float32: what two ways to compute a sigmoid or softmax differ by."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BoundaryError:
    """How far the chain is from the uncut model at one boundary.

    Args:
        relative: largest absolute difference over the largest absolute value of the uncut model's tensor.
        finite: whether both have numbers alone, no NaN and no infinity.
        dtype: of the tensor.
    """

    boundary: str
    tensor: str
    relative: float
    finite: bool
    dtype: str = "float32"

    def allowed(self, tolerance: float = TOLERANCE) -> float:
        """The largest relative error that passes, where float32 has ``tolerance``."""
        return max(tolerance, HALF.get(self.dtype, 0.0))

    def within(self, tolerance: float) -> bool:
        return self.finite and self.relative <= self.allowed(tolerance)

    @property
    def ok(self) -> bool:
        return self.within(TOLERANCE)


def verify(
    bundle: Path, frames: Array | None = None, seed: int = 0, progress: Callable[[str], None] = print
) -> list[BoundaryError]:
    """Checks every graph's fingerprint and compares the chain with the uncut model at every boundary.

    Args:
        frames: what to run on; seeded random frames when it is not given.

    Raises:
        BundleError: a graph is not the one that the manifest names.
        GraphError: ONNX Runtime cannot run a graph.
    """
    manifest = read_manifest(bundle, StagesManifest)
    frame = manifest.frame.spec.bind(batch=1)
    x = random_frames(frame, seed) if frames is None else frames
    progress("uncut model")
    read_graph(bundle, manifest.uncut)
    expected = run_file(bundle / manifest.uncut.graph, [x])
    errors: list[BoundaryError] = []
    values = [x]
    for stage in manifest.stages:
        progress(stage.name)
        read_graph(bundle, stage)
        given = run_file(bundle / stage.graph, values)
        missing = [t.name for t in stage.boundary.tensors if t.name not in given or t.name not in expected]
        if missing:
            raise BundleError(
                f"stage {stage.name} and the uncut model do not both give {', '.join(missing)}", where=bundle
            )
        values = [given[t.name] for t in stage.boundary.tensors]
        errors += [
            compare(stage.boundary.name, t, given[t], expected[t]) for t in (s.name for s in stage.boundary.tensors)
        ]
    return errors


def compare(boundary: str, tensor: str, given: Array, expected: Array) -> BoundaryError:
    """The largest error between two tensors, relative to the largest expected value.

    A difference of a few roundings of 1 counts against 1: probabilities are rounded so, however small they are.
    Of whole numbers and truth values, such as a label map, it is the share of elements that differ.
    """
    dtype = str(expected.dtype)
    if given.shape != expected.shape:
        return BoundaryError(boundary, tensor, float("inf"), finite=False, dtype=dtype)
    if expected.dtype.kind in "biu":
        share = float(np.mean(given != expected)) if given.size else 0.0
        return BoundaryError(boundary, tensor, share, finite=True, dtype=dtype)
    finite = bool(np.isfinite(given).all() and np.isfinite(expected).all())
    scale = float(np.abs(expected.astype(np.float64)).max(initial=0.0)) or 1.0
    difference = float(np.abs(given.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    if difference <= ROUNDING:
        scale = max(scale, 1.0)
    return BoundaryError(boundary, tensor, difference / scale, finite, dtype)


def random_frames(spec: TensorSpec, seed: int) -> Array:
    """Seeded random input of a spec: the whole range of bytes, or a unit normal for floats."""
    generator = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return generator.integers(0, 256, spec.concrete(), dtype=np.uint8)
    return generator.standard_normal(spec.concrete()).astype(spec.numpy_dtype)


def run_file(path: Path, inputs: list[Array], where: str = "") -> dict[str, Array]:
    """Runs an ONNX file as it stands; all its outputs by name. The session is gone afterwards.

    Args:
        where: what to name in an error, if not the file.

    Raises:
        GraphError: ONNX Runtime cannot load or run it on these inputs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    ask_for_exact_products(options)
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        feeds = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
        names = [o.name for o in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))
    except Exception as error:  # ONNX Runtime's own kinds share no base but this one
        raise GraphError(f"ONNX Runtime cannot run it: {error}", where=where or path) from error


def run_graph(graph: Graph, inputs: list[Array]) -> dict[str, Array]:
    """Like :func:`run_file` for a graph in memory."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        graph.save(Path(folder) / "graph.onnx")
        return run_file(Path(folder) / "graph.onnx", inputs, graph.source)
