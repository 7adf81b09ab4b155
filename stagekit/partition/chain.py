"""A whole graph to a ``.stages`` folder: simplify, cut, fingerprint, write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from stagekit.bundle import (
    BackboneFacts,
    Boundary,
    Frame,
    GraphEntry,
    StageEntry,
    StagesManifest,
    plain_name,
    write_manifest,
    writing,
)
from stagekit.errors import VerificationFailed
from stagekit.graph import Graph
from stagekit.graph.cost import macs, parameters
from stagekit.graph.cut import cut
from stagekit.graph.weights import save_together
from stagekit.partition.verify import Array, BoundaryError, compare, random_frames, run_file
from stagekit.target import Progress
from stagekit.versions import tool_versions

WEIGHT_FILE = "weights.bin"
UNCUT = "uncut.onnx"

EXPORT_TOLERANCE = 1e-4
"""Largest relative error of an exported, simplified graph against its source; folding BatchNorm rounds anew."""


def write_stages(
    whole: Graph,
    boundaries: Sequence[Boundary],
    frame: Frame,
    backbone: BackboneFacts,
    destination: Path,
    progress: Progress,
    expected: Mapping[str, Array],
) -> StagesManifest:
    """Cuts a simplified graph at the boundaries and writes the bundle.

    Args:
        whole: every boundary's tensors exist in it by name; simplified.
        boundaries: in order; the last holds the graph's final outputs.
        expected: what the source itself (torch, or the ONNX file as it came) gives for the random frames of
            seed 0, by tensor; the written graph must reproduce it.

    Raises:
        GraphError: the graph cannot be cut there.
        BundleError: the folder cannot be written.
        VerificationFailed: the written graph does not compute what its source does.
    """
    names = [[t.name for t in b.tensors] for b in boundaries]
    chain = ending_at(whole, names[-1])
    progress(f"cutting into {len(boundaries)} graphs")
    segments = cut(chain, names[:-1])
    stages = dict(zip(stage_names([b.name for b in boundaries]), segments, strict=True))
    with writing(destination, "stages") as folder:
        progress("writing graphs and weights")
        files = {f"{name}.onnx": segment for name, segment in stages.items()}
        save_together(files | {UNCUT: whole}, folder, WEIGHT_FILE)
        progress("comparing with the source")
        error = _export_error(folder / UNCUT, frame, expected, foreign="onnx" in backbone.architecture)
        progress("fingerprints")
        manifest = StagesManifest(
            name=plain_name(destination.name.removesuffix(".stages")),
            backbone=backbone,
            frame=frame,
            stages=tuple(
                StageEntry(
                    name=name, boundary=_described(b, segment), **graph_entry(f"{name}.onnx", segment).model_dump()
                )
                for (name, segment), b in zip(stages.items(), boundaries, strict=True)
            ),
            uncut=graph_entry(UNCUT, whole),
            weight_file=WEIGHT_FILE,
            export_error=error,
            tools=tool_versions("stagekit", "onnx", "onnx_ir", "onnxsim", "torch"),
        )
        write_manifest(folder, manifest)
    return manifest


def graph_entry(file: str, graph: Graph) -> GraphEntry:
    """What a manifest says of a graph file."""
    return GraphEntry(graph=file, fingerprint=graph.fingerprint, macs=macs(graph), parameters=parameters(graph))


def _export_error(path: Path, frame: Frame, expected: Mapping[str, Array], foreign: bool) -> float:
    errors = _errors(run_file(path, [random_frames(frame.spec.bind(batch=1), seed=0)]), expected)
    for error in errors:
        if not error.finite:
            raise VerificationFailed(
                f"on random frames {error.tensor} has NaN or infinity, or another shape than in the source",
                remedy="look at its weights, or cut with --until before what does not take random frames",
            )
        if not error.within(EXPORT_TOLERANCE):
            raise VerificationFailed(
                f"the simplified graph differs from its source at {error.tensor}: relative error {error.relative:.2g},"
                f" allowed {error.allowed(EXPORT_TOLERANCE):.0g}",
                remedy="report the model" if foreign else "try the other exporter (--exporter torchscript)",
            )
    return max((error.relative for error in errors), default=0.0)


def agree(given: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    """Whether a graph gives what its source gives."""
    return expected.keys() <= given.keys() and all(error.within(EXPORT_TOLERANCE) for error in _errors(given, expected))


def _errors(given: Mapping[str, Array], expected: Mapping[str, Array]) -> list[BoundaryError]:
    return [compare(name, name, given[name], expected[name]) for name in expected if name in given]


def stage_names(boundaries: Sequence[str]) -> list[str]:
    """A name for each stage, good as a file name on any system: its boundary's if that is one, else its number."""
    names: list[str] = []
    taken = {UNCUT.removesuffix(".onnx")}
    for index, boundary in enumerate(boundaries):
        plain = boundary == plain_name(boundary) and len(boundary) <= 64 and boundary.lower() not in taken
        names.append(boundary if plain else f"segment{index}" if f"segment{index}" not in taken else f"cut{index}")
        taken.add(names[-1].lower())
    return names


def _described(boundary: Boundary, segment: Graph) -> Boundary:
    """The boundary with the specs that its stage really gives, and the layout that was declared for each."""
    tensors = tuple(
        replace(spec, layout=declared.layout) for spec, declared in zip(segment.outputs, boundary.tensors, strict=True)
    )
    return boundary.model_copy(update={"tensors": tensors})


def ending_at(graph: Graph, outputs: Sequence[str]) -> Graph:
    """The graph with these outputs alone."""
    if [s.name for s in graph.outputs] == list(outputs):
        return graph
    model = graph.edit()
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    return Graph(
        ir.Model(ir.convenience.extract(model.graph, inputs, list(outputs)), ir_version=model.ir_version), graph.source
    )
