"""The driver for a built-in backbone: a registered architecture to a ``.stages`` folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stagekit.bundle import BackboneFacts, Boundary, Frame, StagesManifest, check_writable
from stagekit.graph import TensorSpec
from stagekit.graph.shapes import BATCH
from stagekit.graph.simplify import simplify
from stagekit.partition.chain import write_stages
from stagekit.partition.verify import random_frames
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

    check_writable(output, "stages")
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
