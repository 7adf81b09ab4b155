"""What a second task costs in embedded graphs, by tuning method, on ViT-S/14: structures with random weights.

    python benchmarks/deployability.py [--json PATH]

The backbone is embedded once, as four graphs (stem and three stages) or as thirteen (stem and every unit). A method
then changes the network for a task, the changed backbone is partitioned the same way, and graphs are compared by
fingerprint: with those embedded, and with those of another task tuned by the same method.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from vit_variants import with_adaptformer, with_vpt

from stagekit.models.backbone import Backbone
from stagekit.models.counts import parameters
from stagekit.models.heads import LightHead
from stagekit.models.presets import create_spms
from stagekit.models.registry import create
from stagekit.partition.partition import partition_module

CLASSES = 11
HEAD_WIDTH = 64
PROMPTED = ("stem", "unit4", "unit8")
PROMPT_TOKENS = 50
BOTTLENECK = 64
GRANULARITIES = {"stages": ("unit4", "unit8"), "units": tuple(f"unit{n}" for n in range(1, 12))}


@dataclass(frozen=True, slots=True)
class Row:
    """A method at one granularity.

    Attributes:
        graphs: that the backbone was embedded as.
        survive: of them, those that the task leaves as they are.
        shared: graphs of the task's backbone that another task of the method has as well.
        parameters: that a task learns, head included.
        embed_again: parameters in graphs that a task does not find embedded, learned or not.
        engines: to build for each task beside the method's other tasks.
    """

    method: str
    granularity: str
    graphs: int
    survive: int
    shared: int
    parameters: int
    embed_again: int
    engines: int


def unchanged(backbone: Backbone) -> int:
    """SPMs and heads stand between and behind the graphs of the backbone."""
    return 0


def perturb(backbone: Backbone) -> int:
    """What full tuning does to a backbone: every weight moves."""
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(torch.randn_like(parameter) * 1e-3)
    return parameters(backbone)


CHANGES: dict[str, Callable[[Backbone], int]] = {
    "head": unchanged,
    "spm": unchanged,
    "full": perturb,
    "vpt-deep": lambda backbone: with_vpt(backbone, PROMPT_TOKENS),
    "adaptformer": lambda backbone: with_adaptformer(backbone, BOTTLENECK),
}


@cache
def embedded(granularity: str, size: int, change: Callable[[Backbone], int], seed: int) -> tuple[dict[str, int], int]:
    """Parameters of every graph by fingerprint, and those learned inside the backbone."""
    backbone = create("vit_s14", size=(size, size), cuts=GRANULARITIES[granularity])
    torch.manual_seed(seed)
    learned = change(backbone)
    with tempfile.TemporaryDirectory() as folder:
        manifest = partition_module(backbone.eval(), Path(folder) / "x.stages", weights="random")
    return {stage.fingerprint: stage.parameters for stage in manifest.stages}, learned


def compare(method: str, granularity: str, size: int) -> Row:
    """Two tasks of a method, beside the backbone as it was embedded."""
    change = CHANGES[method]
    before, _ = embedded(granularity, size, unchanged, 0)
    (task, learned), (other, _) = (embedded(granularity, size, change, 0 if change is unchanged else n) for n in (1, 2))
    boundaries = {b.name: b for b in create("vit_s14", size=(size, size)).boundaries}
    spms = create_spms([boundaries[n] for n in PROMPTED], CLASSES, torch.full((CLASSES,), 1 / CLASSES), "small")
    added = [LightHead([boundaries["unit12"]], CLASSES, HEAD_WIDTH), *(spms.values() if method == "spm" else ())]
    own = sum(parameters(part) for part in added)
    return Row(
        method=method,
        granularity=granularity,
        graphs=len(before),
        survive=len(before.keys() & task.keys()),
        shared=len(task.keys() & other.keys()),
        parameters=learned + own,
        embed_again=sum(task[fingerprint] for fingerprint in task.keys() - before.keys()) + own,
        engines=len(task.keys() - other.keys()) + len(added),
    )


@click.command(help=__doc__)
@click.option(
    "--size",
    default=112,
    show_default=True,
    help="Side of the frames in pixels; the constant of the position embedding alone depends on it.",
)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(size: int, path: Path | None) -> None:
    rows = [compare(method, granularity, size) for granularity in GRANULARITIES for method in CHANGES]
    if path:
        path.write_text(json.dumps({"backbone": "vit_s14", "rows": [asdict(row) for row in rows]}, indent=1) + "\n")
    table = Table("method", "graphs", "survive", "shared with another task", "M learned", "M embedded again", "engines")
    for row in rows:
        millions = f"{row.parameters / 1e6:.2f}", f"{row.embed_again / 1e6:.2f}"
        table.add_row(row.method, str(row.graphs), str(row.survive), str(row.shared), *millions, str(row.engines))
    Console().print(table)


if __name__ == "__main__":
    main()
