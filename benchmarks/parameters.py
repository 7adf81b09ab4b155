"""Parameters of every part beside those that the paper prints (arXiv 2208.10159); multiply-accumulates of a frame.

    python benchmarks/parameters.py [--json]

Nothing is measured: modules are built on torch's meta device, their parameters and products are added up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import accumulate

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from stagekit.models.backbone import BoundaryInfo
from stagekit.models.counts import macs, parameters
from stagekit.models.heads import create_head, setr_auxiliary_heads
from stagekit.models.presets import width_for
from stagekit.models.registry import create
from stagekit.models.spm import SPM

RESNET = BoundaryInfo("stage4", 2048, 8)
VIT = BoundaryInfo("unit24", 1024, 16, "tokens", 1)
PROMPTED = {
    "stage 1": 64,
    "stages 1-2": 256,
    "stages 1-3": 512,
    "stages 1-4": 1024,
    "stages 1-5": 2048,
    "+1": 1024,
    "+2": 1024,
}
NO_STRUCTURE = "no preset reproduces this figure together with the others"


@dataclass(frozen=True, slots=True)
class Row:
    """A part, our count and the printed one in millions; None where the paper prints none."""

    part: str
    count_m: float
    paper_m: float | None
    note: str


def backbones() -> Iterator[Row]:
    for name, label, printed in (("resnet101", "ResNet-101", 42.41), ("resnet50", "ResNet-50", 23.47)):
        yield Row(label, millions(create(name), norms=False), printed, "convolution weights")
    yield Row("ViT-L/16", millions(create("vit_l16")), 304.15, "all parameters, at 512 x 512")


def heads() -> Iterator[Row]:
    note = "convolution weights, bias of the classifier"
    for classes, printed in ((150, 23.15), (6, 23.07)):
        yield Row(f"PPM head, s={classes}", millions(create_head("ppm", [RESNET], classes), norms=False), printed, note)
    yield Row("PUP head, s=2", millions(create_head("pup", [RESNET], 2), norms=False), 5.90, note)
    setr = nn.ModuleList([create_head("setr-pup", [VIT], 150), *setr_auxiliary_heads([VIT] * 3, 150)])
    yield Row("SETR-PUP head, s=150", millions(setr), 13.14, "with norms and the three training-only auxiliary heads")


def spms() -> Iterator[Row]:
    counts = cumulative("param-matched", list(PROMPTED.values()), 150)
    printed = (0.48, 1.07, 1.78, 2.36, 3.11, 3.69, 4.27)
    for label, count, paper in zip(PROMPTED, counts, printed, strict=True):
        yield Row(f"SPMs, ResNet, s=150, {label}", count, paper, "preset param-matched")
    for number, (count, paper) in enumerate(
        zip(cumulative("param-matched", [1024] * 3, 150), (0.59, 1.17, 1.76), strict=True), start=1
    ):
        yield Row(f"SPMs, ViT-L, s=150, {number}", count, paper, "preset param-matched")
    five = list(PROMPTED.values())[:5]
    yield Row("SPMs, Vaihingen, s=6", cumulative("param-matched", five, 6)[-1], 2.22, NO_STRUCTURE)
    yield Row("SPMs, medical, s=2", cumulative("param-matched", five, 2)[-1], 2.54, NO_STRUCTURE)
    yield Row(
        "SPMs, ResNet, s=150, stages 1-5, width 256",
        cumulative("paper", five, 150)[-1],
        3.11,
        "preset paper: the width it states",
    )
    yield Row("SPMs, ResNet, s=150, stages 1-5, aligned", cumulative("aligned", five, 150)[-1], None, "preset aligned")


@dataclass(frozen=True, slots=True)
class Work:
    """What a part computes for one frame of 512 x 512, in 10^9 multiply-accumulates, beside its backbone's."""

    backbone: str
    part: str
    gmacs: float
    share: float


def work() -> Iterator[Work]:
    """Backbones at output stride 8 with five SPMs for 150 classes and the paper's heads."""
    frames = torch.zeros(1, 512, 512, 3, dtype=torch.uint8)
    for name, label in (("resnet101", "ResNet-101"), ("resnet50", "ResNet-50")):
        backbone = create(name, size=(512, 512), output_stride=8)
        own = macs(backbone, frames)
        yield Work(label, "backbone", own / 1e9, 1.0)
        edges = {b.name: b for b in backbone.boundaries}
        for preset in ("param-matched", "paper", "aligned"):
            count = sum(spm_macs(edges[n], preset) for n in ("stem", "stage1", "stage2", "stage3", "stage4"))
            yield Work(label, f"five SPMs, preset {preset}", count / 1e9, count / own)
        for head, classes in (("ppm", 150), ("pup", 2)):
            count = create_head(head, [RESNET], classes).macs(512, 512)
            yield Work(label, f"{head.upper()} head, s={classes}", count / 1e9, count / own)


def spm_macs(boundary: BoundaryInfo, preset: str, classes: int = 150) -> int:
    """Of one SPM, its semantic map given at the feature's own size."""
    spm = SPM(boundary.channels, classes, width_for(preset, boundary.channels))
    height, width = boundary.grid(512, 512)
    return macs(spm, torch.empty(1, boundary.channels, height, width), torch.empty(1, classes, height, width))


def cumulative(preset: str, channels: list[int], classes: int) -> list[float]:
    return list(accumulate(millions(SPM(c, classes, width_for(preset, c))) for c in channels))


def millions(module: nn.Module, *, norms: bool = True) -> float:
    return round(parameters(module, norms=norms) / 1e6, 4)


def counted() -> tuple[list[Row], list[Work]]:
    """Parameters, and products."""
    with torch.device("meta"):
        return [*backbones(), *heads(), *spms()], list(work())


@click.command(help=__doc__)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
def main(as_json: bool) -> None:
    rows, products = counted()
    if as_json:
        click.echo(json.dumps({"rows": [asdict(row) for row in (*rows, *products)]}, indent=2))
        return
    table = Table("part", "count (M)", "paper (M)", "what is counted")
    for row in rows:
        table.add_row(row.part, f"{row.count_m:.2f}", "-" if row.paper_m is None else f"{row.paper_m:.2f}", row.note)
    Console().print(table)
    table = Table("backbone", "part, 512 x 512", "GMAC", "of the backbone's")
    for each in products:
        table.add_row(each.backbone, each.part, f"{each.gmacs:.0f}", f"{100 * each.share:.0f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
