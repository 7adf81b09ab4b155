"""A task's graphs at the place where they will run: sizes bound, tokens as the backbone has them, labels out.

A ``.task`` is made for a backbone, not for an input size: its graphs have symbolic sizes and speak of maps.
Here they meet the boundaries of one bundle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from stagekit.bundle import Boundary, Frame, HeadEntry, PromptEntry, StagesManifest, TaskManifest, read_graph
from stagekit.errors import BundleError, nearest
from stagekit.graph import Graph
from stagekit.graph.idle import without_idle_nodes
from stagekit.graph.labels import with_labels
from stagekit.graph.pointwise import regrouped
from stagekit.graph.shapes import BATCH, bind
from stagekit.graph.tokens import TokenGrid, over_tokens

Output = Literal["labels", "logits"]


def float_stages(stages: Path, bundle: StagesManifest) -> list[tuple[str, Graph]]:
    """The stages' graphs by name, in order, with the axis names of their edges."""
    edges = [bundle.frame.spec, *(t for entry in bundle.stages for t in entry.boundary.tensors)]
    layouts = {spec.name: spec.layout for spec in edges}
    return [(entry.name, read_graph(stages, entry).with_layouts(layouts)) for entry in bundle.stages]


def spm_graphs(
    task: Path, manifest: TaskManifest, boundaries: Mapping[str, Boundary]
) -> Iterator[tuple[PromptEntry, Boundary, Graph]]:
    """A task's SPMs in order, each with the boundary that it prompts; see :func:`spm_graph`."""
    before: Boundary | None = None
    for entry in manifest.prompts:
        boundary = boundaries[entry.boundary]
        yield entry, boundary, spm_graph(task, entry, boundary, before, len(manifest.classes))
        before = boundary


def spm_graph(task: Path, entry: PromptEntry, boundary: Boundary, before: Boundary | None, classes: int) -> Graph:
    """An SPM's graph at a boundary.

    Args:
        before: the prompted boundary whose semantic map comes in; ``None`` for a task's first SPM.

    Raises:
        BundleError: the SPM was not made for this boundary's width or number of classes.
    """
    graph = read_graph(task, entry)
    shapes: dict[str, tuple[int | str, ...]] = {"feature": (BATCH, boundary.channels, *_grid(boundary))}
    if before is not None:
        shapes["semantic"] = (BATCH, classes, *_grid(before))
    _check_inputs(graph, shapes, task, entry.graph)
    bound = regrouped(_laid_out(without_idle_nodes(bind(graph, shapes))))
    if boundary.prefix is None:
        return bound
    return over_tokens(bound, {"feature": _tokens(boundary)}, {"prompted": "feature"})


def head_graph(task: Path, entry: HeadEntry, boundaries: Mapping[str, Boundary], frame: Frame, output: Output) -> Graph:
    """A head's graph over the boundaries that it reads, giving labels in the frame's size or raw logits."""
    graph = read_graph(task, entry)
    read = {name: boundaries[name] for name in entry.reads}
    shapes = {name: (BATCH, b.channels, *_grid(b)) for name, b in read.items()}
    _check_inputs(graph, shapes, task, entry.graph)
    bound = _laid_out(without_idle_nodes(bind(graph, shapes)))
    tokens = {name: _tokens(b) for name, b in read.items() if b.prefix is not None}
    bound = over_tokens(bound, tokens, {}) if tokens else bound
    return with_labels(bound, frame.height, frame.width) if output == "labels" else bound


def check_task(task: Path, manifest: TaskManifest, backbone: str, boundaries: Mapping[str, Boundary]) -> None:
    """The task must be made for this backbone, and its boundaries must exist in this bundle.

    Raises:
        BundleError: says which backbone or boundary was expected and found.
    """
    if manifest.backbone != backbone:
        raise BundleError(
            f"this task was made for the backbone {manifest.backbone[:16]}, the stages are of {backbone[:16]}",
            where=task,
            remedy="use those it was tuned on (stagekit partition RECIPE.toml), or tune it again on these",
        )
    for name in [*(p.boundary for p in manifest.prompts), *manifest.head.reads]:
        if name not in boundaries:
            raise BundleError(f"the stages have no boundary {name!r}" + nearest(name, list(boundaries)), where=task)
    order = [list(boundaries).index(p.boundary) for p in manifest.prompts]
    if order != sorted(set(order)):
        raise BundleError("its SPMs are not in the order of the boundaries", where=task)


def check_through(task: Path, manifest: TaskManifest, stages: Mapping[str, str]) -> None:
    """A task that was tuned through integer stages runs on these alone.

    Args:
        stages: fingerprints by name, of the graphs as they are compiled.

    Raises:
        BundleError: names the first stage that differs, and the ways out.
    """
    if manifest.through is None:
        return
    bound = manifest.through.stages
    differ = [next((n for n, d in wanted.items() if stages.get(n) != d), None) for wanted in bound.values()]
    if None not in differ:
        profile, stage = next(iter(bound)), differ[0]
        assert stage is not None
        raise BundleError(
            f"this task was tuned through {stage} {bound[profile][stage][:16]} in integers (record"
            f" {manifest.through.record}, {' or '.join(bound)}); here it is {stages.get(stage, 'missing')[:16]}",
            where=task,
            remedy="compile the stages with that record, one of those profiles and its weight_bits, or tune it again:"
            " `stagekit tune RECIPE --through X.calib`",
        )


def _check_inputs(graph: Graph, shapes: Mapping[str, tuple[int | str, ...]], task: Path, file: str) -> None:
    """Names and known widths must fit; sizes are open in the graph."""
    have = {spec.name: spec for spec in graph.inputs}
    for name, shape in shapes.items():
        spec = have.get(name)
        if spec is None or len(spec.shape) != 4 or (isinstance(spec.shape[1], int) and spec.shape[1] != shape[1]):
            found = f"found {spec}" if spec else f"its inputs are {', '.join(have)}"
            raise BundleError(f"{file} must take {name!r} with {shape[1]} channels; {found}", where=task)
    if surplus := have.keys() - shapes.keys():
        raise BundleError(f"{file} has inputs that nothing fills: {', '.join(sorted(surplus))}", where=task)


def _laid_out(graph: Graph) -> Graph:
    return replace(graph, layouts={s.name: "NCHW" for s in (*graph.inputs, *graph.outputs) if len(s.shape) == 4})


def _grid(boundary: Boundary) -> tuple[int, int]:
    if boundary.grid is None:
        raise BundleError(f"the boundary {boundary.name!r} is no map and no token grid; it cannot be prompted or read")
    return boundary.grid


def _tokens(boundary: Boundary) -> TokenGrid:
    height, width = _grid(boundary)
    assert boundary.prefix is not None
    return TokenGrid(height, width, boundary.prefix)
