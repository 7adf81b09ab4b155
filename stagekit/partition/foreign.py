"""The driver for foreign models: any ONNX file to a ``.stages`` folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from stagekit.bundle import BackboneFacts, Boundary, Frame, StagesManifest, check_writable
from stagekit.errors import UsageError
from stagekit.graph import Graph, TensorSpec, load
from stagekit.graph.cost import macs
from stagekit.graph.cut import Candidate, balanced, candidates
from stagekit.graph.opset import modernised
from stagekit.graph.simplify import simplify
from stagekit.partition.chain import agree, ending_at, write_stages
from stagekit.partition.from_onnx import Normalisation, expose, fix_size, image_layout, take_frames
from stagekit.partition.verify import random_frames, run_graph
from stagekit.target import Progress, silent


def places(path: Path, size: tuple[int, int] | None, until: str | None = None) -> tuple[list[Candidate], int]:
    """Where a foreign model can be cut by one tensor, and its multiply-accumulates for one image."""
    whole = simplify(_ended(fix_size(load(path), size), until))
    return candidates(whole), macs(whole)


def partition_onnx(
    path: Path,
    output: Path,
    *,
    at: Sequence[Sequence[str]] = (),
    stages: int | None = None,
    until: str | None = None,
    size: tuple[int, int] | None = None,
    normalisation: Normalisation | None = None,
    progress: Progress = silent,
) -> StagesManifest:
    """Cuts any ONNX file at named tensors, or into ``stages`` parts of about equal MACs.

    Args:
        at: for each cut the tensors that cross it, the one that an SPM prompts first.
        until: the tensor at which the chain ends, where what comes behind is for another purpose; by default it goes
            on to the file's outputs.
        size: (height, width) in pixels where the model leaves it open.
        normalisation: put in front, so that the first stage takes uint8 frames.

    Raises:
        UsageError: neither or both of ``at`` and ``stages``; an open input size that was not given.
        GraphError: the file is not a model that can be cut there.
        BundleError: the output cannot be written.
    """
    at = [[name.strip() for name in tensors] for tensors in at]
    if bool(at) == (stages is not None):
        raise UsageError("give either --at TENSOR (once per cut) or --stages N", where=path)
    check_writable(output, "stages")
    progress(f"reading {path.name}")
    loaded = load(path)
    source = _ended(_over_frames(loaded, size, normalisation), until)
    frames = [random_frames(source.inputs[0].bind(batch=1), seed=0)]
    expected = run_graph(source, frames)
    raw, modern = source, modernised(loaded)
    if modern is not loaded:
        candidate = _ended(_over_frames(modern, size, normalisation), until)
        raw = candidate if agree(run_graph(candidate, frames), expected) else source
    final = [s.name for s in raw.outputs]
    progress("simplifying")
    if stages is not None:
        whole = simplify(raw)
        at = [[name] for name in balanced(candidates(whole), macs(whole), stages)]
        whole = expose(whole, _flat(at))
    else:
        raw = expose(raw, _flat(at))
        whole = simplify(raw)
    specs = {s.name: _laid_out(s) for s in whole.outputs}
    boundaries = [
        Boundary(name=tensors[0], tensors=tuple(specs[t] for t in tensors), grid=_grid(specs[tensors[0]]))
        for tensors in [*at, final]
    ]
    facts = BackboneFacts(
        id=_foreign_id(loaded, at, until, normalisation),
        architecture={"onnx": loaded.fingerprint},
        weights=path.name,
        preprocessing={"mean": normalisation.mean, "std": normalisation.std} if normalisation else None,
    )
    spec = replace(raw.inputs[0], layout=image_layout(raw.inputs[0].shape))
    height, width = (int(spec.shape[spec.layout.index(axis)]) for axis in "HW")
    frame = Frame(spec=spec, height=height, width=width)
    return write_stages(whole, boundaries, frame, facts, output, progress, expected)


def _over_frames(model: Graph, size: tuple[int, int] | None, normalisation: Normalisation | None) -> Graph:
    fixed = fix_size(model, size)
    return take_frames(fixed, normalisation) if normalisation is not None else fixed


def _ended(model: Graph, until: str | None) -> Graph:
    return model if until is None else ending_at(expose(model, [until]), [until])


def _flat(at: Sequence[Sequence[str]]) -> list[str]:
    return [name for tensors in at for name in tensors]


def _foreign_id(
    loaded: Graph, at: Sequence[Sequence[str]], until: str | None, normalisation: Normalisation | None
) -> str:
    preprocessing = [normalisation.mean, normalisation.std] if normalisation else None
    facts = [loaded.fingerprint, [list(tensors) for tensors in at], preprocessing, *([until] if until else [])]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _laid_out(spec: TensorSpec) -> TensorSpec:
    return replace(spec, layout={4: "NCHW", 3: "NTC"}.get(len(spec.shape), ""))


def _grid(spec: TensorSpec) -> tuple[int, int] | None:
    if spec.layout != "NCHW" or isinstance(spec.shape[2], str) or isinstance(spec.shape[3], str):
        return None
    return spec.shape[2], spec.shape[3]
