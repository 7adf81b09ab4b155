"""A tuned network to a ``.task`` folder: SPM and head graphs over one weight file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagekit.bundle import (
    ClassEntry,
    HeadEntry,
    Metric,
    PromptEntry,
    TaskManifest,
    plain_name,
    write_manifest,
    writing,
)
from stagekit.bundle.manifest import ThroughEntry
from stagekit.data.geometry import Resize
from stagekit.graph import Graph
from stagekit.graph.cost import macs, parameters
from stagekit.graph.shapes import BATCH, bind
from stagekit.graph.weights import save_together
from stagekit.models.graphs import HeadGraph, SpmGraph, head_graph, spm_graphs
from stagekit.partition.from_torch import Exporter, export
from stagekit.target import Progress, silent
from stagekit.versions import tool_versions

if TYPE_CHECKING:
    from stagekit.models.prompted import PromptedNetwork

WEIGHT_FILE = "weights.bin"


def write_task(
    network: PromptedNetwork,
    destination: Path,
    *,
    name: str,
    backbone: str,
    classes: Sequence[ClassEntry],
    prior: Sequence[float],
    resize: Resize | None = None,
    metrics: Sequence[Metric] = (),
    through: ThroughEntry | None = None,
    provenance: Mapping[str, Any] | None = None,
    exporter: Exporter = "dynamo",
    progress: Progress = silent,
) -> TaskManifest:
    """Exports what the task adds; the backbone is named by its id and not stored.

    Args:
        backbone: :func:`stagekit.models.identity.backbone_id` of the network's backbone.
        name: of the task, made fit for a file name.
        prior: M_0, one frequency a class.
        resize: how an image becomes a frame; as the stages say by default.
        through: the integer stages that it was tuned through, and is bound to.
        provenance: recipe, data and dates, for people.

    Raises:
        GraphError: a part cannot be exported.
        BundleError: the folder cannot be written.
    """
    graphs: dict[str, Graph] = {}
    prompts: list[PromptEntry] = []
    grids = network.grids(*network.backbone.size)
    before: str | None = None
    for index, (boundary, module) in enumerate(spm_graphs(network).items()):
        progress(f"exporting the SPM at {boundary}")
        file = f"spm{index}.onnx"
        graphs[file] = _export(module, exporter)
        sizes = {"feature": grids[boundary]} | ({"semantic": grids[before]} if before else {})
        prompts.append(PromptEntry(boundary=boundary, **_facts(file, graphs[file], sizes)))
        before = boundary
    progress("exporting the head")
    head = head_graph(network)
    graphs["head.onnx"] = _export(head, exporter)
    reads = {b: grids[b] for b in head.inputs}
    entry = HeadEntry(reads=head.inputs, **_facts("head.onnx", graphs["head.onnx"], reads))
    manifest = TaskManifest(
        name=plain_name(name),
        backbone=backbone,
        classes=tuple(classes),
        prior=tuple(prior),
        prompts=tuple(prompts),
        head=entry,
        resize=resize,
        weight_file=WEIGHT_FILE,
        metrics=tuple(metrics),
        through=through,
        provenance=dict(provenance or {}),
        tools=tool_versions("stagekit", "torch", "onnx"),
    )
    with writing(destination, "task") as folder:
        save_together(graphs, folder, WEIGHT_FILE)
        write_manifest(folder, manifest)
    return manifest


def _export(module: SpmGraph | HeadGraph, exporter: Exporter) -> Graph:
    return export(module, module.example(), module.inputs, module.outputs, module.dims, exporter)


def _facts(file: str, graph: Graph, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Fingerprint of the graph as it is, cost at the backbone's own frame size."""
    shapes = {s.name: (BATCH, s.shape[1], *sizes[s.name]) for s in graph.inputs}
    bound = bind(graph, shapes)
    return {
        "graph": file,
        "fingerprint": graph.fingerprint,
        "macs": macs(bound),
        "parameters": parameters(graph),
    }
