"""The chain of stages against the uncut model, in ONNX Runtime at float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.bundle import StagesManifest, read_graph, read_manifest
from stagekit.graph import Graph, TensorSpec

TOLERANCE = 1e-5
"""Largest relative error that a float32 chain may have."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class BoundaryError:
    """How far the chain is from the uncut model at one boundary.

    Args:
        relative: largest absolute difference over the largest absolute value of the uncut model's tensor.
    """

    boundary: str
    tensor: str
    relative: float
    finite: bool

    @property
    def ok(self) -> bool:
        return self.finite and self.relative <= TOLERANCE


def verify(
    bundle: Path, frames: Array | None = None, seed: int = 0, progress: Callable[[str], None] = print
) -> list[BoundaryError]:
    """Checks every graph's fingerprint and compares the chain with the uncut model at every boundary.

    Args:
        frames: what to run on; seeded random frames when it is not given.

    Raises:
        BundleError: a graph is not the one that the manifest names.
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
        values = [given[t.name] for t in stage.boundary.tensors]
        errors += [
            compare(stage.boundary.name, t, given[t], expected[t]) for t in (s.name for s in stage.boundary.tensors)
        ]
    return errors


def compare(boundary: str, tensor: str, given: Array, expected: Array) -> BoundaryError:
    """The largest relative error between two tensors."""
    finite = bool(np.isfinite(given).all() and np.isfinite(expected).all())
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    difference = float(np.abs(given.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0))
    return BoundaryError(boundary, tensor, difference / scale, finite)


def random_frames(spec: TensorSpec, seed: int) -> Array:
    """Seeded random input of a spec: the whole range of bytes, or a unit normal for floats."""
    generator = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return generator.integers(0, 256, spec.concrete(), dtype=np.uint8)
    return generator.standard_normal(spec.concrete()).astype(spec.numpy_dtype)


def run_file(path: Path, inputs: list[Array]) -> dict[str, Array]:
    """Runs an ONNX file as it stands; all its outputs by name. The session is gone afterwards."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = dict(zip([i.name for i in session.get_inputs()], inputs, strict=True))
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def run_graph(graph: Graph, inputs: list[Array]) -> dict[str, Array]:
    """Like :func:`run_file` for a graph in memory."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        graph.save(Path(folder) / "graph.onnx")
        return run_file(Path(folder) / "graph.onnx", inputs)
