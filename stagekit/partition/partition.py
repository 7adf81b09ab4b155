"""The driver: a built-in backbone or any ONNX file to a ``.stages`` folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stagekit import graph
from stagekit.bundle import BackboneFacts, Boundary, Frame, StagesManifest
from stagekit.errors import UsageError
from stagekit.graph import Graph, TensorSpec
from stagekit.graph.cost import macs
from stagekit.graph.cut import Candidate, balanced, candidates
from stagekit.graph.shapes import BATCH
from stagekit.graph.simplify import simplify
from stagekit.partition.chain import write_stages
from stagekit.partition.from_onnx import Normalisation, expose, fix_size, image_layout, take_frames
from stagekit.partition.verify import random_frames, run_graph
from stagekit.target import Progress, silent

if TYPE_CHECKING:
    from stagekit.models.backbone import Backbone
    from stagekit.partition.from_torch import Exporter


def partition_backbone(
    name: str,
    output: Path,
    *,
    weights: Path | None = None,
    size: tuple[int, int] | None = None,
    output_stride: int | None = None,
    cuts: Sequence[str] | None = None,
    exporter: Exporter = "dynamo",
    seed: int = 0,
    progress: Progress = silent,
) -> StagesManifest:
    """Cuts a built-in architecture; without ``weights`` its parameters are random, from ``seed``.

    Args:
        size: frames' (height, width) in pixels; the architecture's own by default.
        cuts: boundary names; the architecture's own by default.

    Raises:
        UsageError: unknown architecture or option.
        WeightsError: the weights do not fit.
        BundleError: the output cannot be written.
    """
    from stagekit.models.registry import create

    progress(f"building {name}")
    backbone = create(name, size=size, output_stride=output_stride, cuts=cuts, weights=weights, seed=seed)
    source = f"random, seed {seed}" if weights is None else weights.name
    return partition_module(backbone, output, weights=source, exporter=exporter, progress=progress)


def partition_module(
    backbone: Backbone,
    output: Path,
    *,
    weights: str,
    exporter: Exporter = "dynamo",
    progress: Progress = silent,
) -> StagesManifest:
    """Cuts a backbone that is already in memory, at its own frame size.

    Args:
        weights: where its parameters came from, for people.
    """
    from stagekit.models.identity import backbone_id
    from stagekit.partition.from_torch import export_backbone, run_backbone

    height, width = backbone.size
    frame = Frame(spec=TensorSpec("frames", "uint8", (BATCH, height, width, 3), "NHWC"), height=height, width=width)
    boundaries = [
        Boundary(
            name=info.name,
            tensors=(_placeholder(info.name, info.kind),),
            grid=info.grid(height, width),
            prefix=info.prefix if info.kind == "tokens" else None,
        )
        for info in backbone.boundaries
    ]
    progress("backbone id")
    facts = BackboneFacts(
        id=backbone_id(backbone),
        architecture=backbone.architecture,
        weights=weights,
        preprocessing={"mean": backbone.preprocessing.mean, "std": backbone.preprocessing.std},
    )
    progress(f"exporting at {height} x {width}")
    expected = run_backbone(backbone, random_frames(frame.spec.bind(batch=1), seed=0))
    exported = export_backbone(backbone, height, width, exporter)
    progress("simplifying")
    return write_stages(simplify(exported), boundaries, frame, facts, output, progress, expected)


def _placeholder(name: str, kind: str) -> TensorSpec:
    """Layout and element type; the shape comes from the stage that is cut."""
    return (
        TensorSpec(name, "float32", (BATCH, "t", "c"), "NTC")
        if kind == "tokens"
        else TensorSpec(name, "float32", (BATCH, "c", "h", "w"), "NCHW")
    )


def places(path: Path, size: tuple[int, int] | None) -> tuple[list[Candidate], int]:
    """Where a foreign model can be cut by one tensor, and its multiply-accumulates for one image."""
    whole = simplify(fix_size(graph.load(path), size))
    return candidates(whole), macs(whole)


def partition_onnx(
    path: Path,
    output: Path,
    *,
    at: Sequence[Sequence[str]] = (),
    stages: int | None = None,
    size: tuple[int, int] | None = None,
    normalisation: Normalisation | None = None,
    progress: Progress = silent,
) -> StagesManifest:
    """Cuts any ONNX file at named tensors, or into ``stages`` parts of about equal MACs.

    Args:
        at: for each cut the tensors that cross it, the one that an SPM prompts first.
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
    progress(f"reading {path.name}")
    loaded = graph.load(path)
    raw = fix_size(loaded, size)
    if normalisation is not None:
        raw = take_frames(raw, normalisation)
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
        id=_foreign_id(loaded, at, normalisation),
        architecture={"onnx": loaded.fingerprint},
        weights=path.name,
        preprocessing={"mean": normalisation.mean, "std": normalisation.std} if normalisation else None,
    )
    spec = replace(raw.inputs[0], layout=image_layout(raw.inputs[0].shape))
    height, width = (int(spec.shape[spec.layout.index(axis)]) for axis in "HW")
    frame = Frame(spec=spec, height=height, width=width)
    expected = run_graph(raw, [random_frames(spec.bind(batch=1), seed=0)])
    return write_stages(whole, boundaries, frame, facts, output, progress, expected)


def _flat(at: Sequence[Sequence[str]]) -> list[str]:
    return [name for tensors in at for name in tensors]


def _foreign_id(loaded: Graph, at: Sequence[Sequence[str]], normalisation: Normalisation | None) -> str:
    preprocessing = [normalisation.mean, normalisation.std] if normalisation else None
    facts = [loaded.fingerprint, [list(tensors) for tensors in at], preprocessing]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _laid_out(spec: TensorSpec) -> TensorSpec:
    return replace(spec, layout={4: "NCHW", 3: "NTC"}.get(len(spec.shape), ""))


def _grid(spec: TensorSpec) -> tuple[int, int] | None:
    if spec.layout != "NCHW" or isinstance(spec.shape[2], str) or isinstance(spec.shape[3], str):
        return None
    return spec.shape[2], spec.shape[3]
