"""One test image beside its truth and what head, spm and full make of it, from the checkpoints of seed 0.

python benchmarks/methods_picture.py --data data --task brain --backbone vit_s14 docs/images/methods-brain.png
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from methods import RESULTS, Matrix, build
from methods_plan import METHODS, TASKS, Cell, recipe
from PIL import Image

from stagekit.data.layouts import open_dataset
from stagekit.data.overlay import legend, overlay, side_by_side, stacked, titles
from stagekit.tune import checkpoint
from stagekit.tune.loop import BEST
from stagekit.tune.predict import predictor


@click.command(help=__doc__)
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the rows.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("out/methods"), help="Folder of checkpoints.")
@click.option("--task", type=click.Choice(TASKS), default="brain", show_default=True)
@click.option("--backbone", default="vit_s14", show_default=True)
@click.option("--image", default=None, help="Name of a test image; the one with most classes by default.")
def main(picture: Path, data: Path, results: Path, work: Path, task: str, backbone: str, image: str | None) -> None:
    matrix = Matrix(results, data, work, minutes=10)
    dataset = open_dataset("folder", data / task)
    stem = image or max(dataset.stems("test"), key=lambda stem: len(np.unique(dataset.read(stem).mask)))
    _, frame, truth = dataset.read(stem)
    columns = {"input": frame, "truth": overlay(frame, truth, dataset.classes.palette)}
    for method in METHODS[:3]:
        cell = Cell(task, backbone, method)
        row = matrix.row(cell)
        if row is None:
            continue
        stated = recipe(cell, row["rates"], data, row["iterations"], 10)
        network, _ = build(stated, dataset)
        checkpoint.load(work / row["run"] / BEST, network)
        labels = predictor(network.eval(), stated)(frame)
        columns[f"{method} ({100 * row['miou']:.1f})"] = overlay(frame, labels, dataset.classes.palette)
    widths = [column.shape[1] for column in columns.values()]
    strip = titles(list(columns), widths)
    key = legend(dataset.classes.names, dataset.classes.palette, strip.shape[1])
    Image.fromarray(stacked([strip, side_by_side(list(columns.values())), key])).save(picture, optimize=True)
    click.echo(f"{picture}: {stem}")


if __name__ == "__main__":
    main()
