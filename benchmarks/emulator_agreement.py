"""Whether the interpreters of the fixed-point target agree on every bit, on whole networks and real images.

The fast interpreter is compared with the reference (numpy int64) on some images and with float64 sums in BLAS on
more, at every boundary of the stages; each stage reads what the fast one gave before it. Rows: model, size, target,
profile, reference_images, float64_images, compared_values, mismatched_values (of either). Rows are written after
every image, and a run that was stopped goes on after the last one.

    python benchmarks/emulator_agreement.py resnet50.stages vit_s14.stages --data images/ --json out.json
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import click
import numpy as np
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.engine import to_stored
from stagekit_fixedpoint.fast import Fast, Values
from stagekit_fixedpoint.lowering import lowered
from stagekit_fixedpoint.program import Array, Program
from stagekit_fixedpoint.target import device_of

from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.targets import load_profile

PATH = click.Path(path_type=Path)


@dataclass(slots=True)
class Row:
    """What was compared so far of one model on one profile."""

    model: str
    size: int
    target: str
    profile: str
    reference_images: int = 0
    float64_images: int = 0
    compared_values: int = 0
    mismatched_values: int = 0

    @property
    def subject(self) -> tuple[str, int, str]:
        return self.model, self.size, self.profile

    def compare(self, found: Values, other: Values) -> None:
        self.compared_values += sum(x.size for x in found.values())
        self.mismatched_values += sum(int((found[name] != other[name]).sum()) for name in found)


class Results:
    """Rows in a file, or in memory alone where there is none."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        rows = json.loads(path.read_text())["rows"] if path and path.exists() else []
        self.rows = {row.subject: row for row in (Row(**r) for r in rows)}

    def row(self, model: str, size: int, profile: str) -> Row:
        """The row of a model on a profile, as far as it was filled before."""
        row = Row(model, size, "fixedpoint", profile)
        return self.rows.setdefault(row.subject, row)

    def text(self) -> str:
        return json.dumps({"rows": [asdict(row) for row in self.rows.values()]}, indent=1)

    def write(self) -> None:
        if self.path:
            self.path.write_text(self.text() + "\n")


def compare(programs: Sequence[tuple[Program, Fast]], frame: Array, row: Row, with_reference: bool) -> None:
    """Takes one frame through all stages and counts what differs at their ends."""
    values = [frame]
    for program, fast in programs:
        given = {n: to_stored(v, program.tensors[n]) for n, v in zip(program.inputs, values, strict=True)}
        found = fast.run(given)
        row.compare(found, blas.run(program, given))
        if with_reference:
            row.compare(found, reference.run(program, {n: v.astype(np.int64) for n, v in given.items()}))
        values = [found[name] for name in program.outputs]


@click.command(help=__doc__)
@click.argument("stages", type=PATH, nargs=-1, required=True)
@click.option("--data", type=PATH, required=True, help="A folder of images.")
@click.option("--profile", "profiles", multiple=True, default=["dpu-b4096-zcu104"], show_default=True)
@click.option("--reference-images", default=5, show_default=True)
@click.option("--float64-images", default=100, show_default=True)
@click.option("--json", "path", type=PATH, help="Write the rows here, and go on with those that are there.")
def main(
    stages: tuple[Path, ...],
    data: Path,
    profiles: tuple[str, ...],
    reference_images: int,
    float64_images: int,
    path: Path | None,
) -> None:
    results = Results(path)
    for bundle in stages:
        chain = open_chain(bundle, equalised=True)
        record = calibrate(chain, from_path(data, limit=8), "minmax")
        geometry = chain.geometry("")
        for name in profiles:
            profile = load_profile(name)
            device = device_of(profile)
            quantised = quantise_stages(chain.stages, record, scheme_of(profile)).graphs
            programs = [(program, Fast(program)) for program in (lowered(g, device).program for g in quantised)]
            row = results.row(chain.manifest.name, chain.manifest.frame.height, name)
            for _, image in islice(from_path(data, limit=float64_images), row.float64_images, None):
                with_reference = row.reference_images < reference_images
                compare(programs, np.ascontiguousarray(geometry.apply(image)[0])[None], row, with_reference)
                row.float64_images += 1
                row.reference_images += with_reference
                results.write()
            click.echo(f"  {asdict(row)}", err=True)
    click.echo(results.text())


if __name__ == "__main__":
    main()
