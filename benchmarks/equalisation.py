"""What is done to weights before they are rounded, where a weight has one scale and where each channel has its own.

Rows: task, backbone, weights, grid, activation, equalised, keep_sums (kernels keep the sums of their taps), corrected
(biases), miou_float, miou_int8 (percent, test split, the
images' own size; the Q/DQ graphs simulated in ONNX Runtime), drop. Ranges come from the train split.

    python benchmarks/equalisation.py --case lite0.stages landcover.task data/landcover --json out.json
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import click
from calibration import Rows
from stagekit_calib.accuracy import evaluate
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.data.folder import Folder
from stagekit.quant.formats import NumberFormat
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages

PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Format:
    """A number format."""

    weights: str
    grid: str
    scheme: QuantScheme


UNSIGNED = NumberFormat("uint8", symmetric=False)
SHIFTS = NumberFormat("int8", symmetric=True, grid="power_of_two")
FORMATS = (
    Format("per channel", "float", QuantScheme(UNSIGNED)),
    Format("one scale", "float", QuantScheme(UNSIGNED, per_channel=False)),
    Format("one scale", "power of two", QuantScheme(SHIFTS, SHIFTS, per_channel=False)),
    Format("per channel", "power of two", QuantScheme(SHIFTS, SHIFTS)),
)


@click.command()
@click.option("--case", "cases", type=(PATH, PATH, PATH), multiple=True, required=True, help="STAGES TASK DATA")
@click.option("--limit", default=48, show_default=True, help="Calibration images.")
@click.option("--json", "path", type=PATH, help="Rows are written here as they come; those found there are kept.")
def main(cases: tuple[tuple[Path, Path, Path], ...], limit: int, path: Path | None) -> None:
    rows = Rows(path)
    for (stages, task, data), equalised in product(cases, (False, True)):
        folder = Folder.open(data)
        stems = folder.stems("test")
        chain = open_chain(stages, [task], equalised=equalised)
        (name,) = chain.tasks
        record, expected = None, 0.0
        for form, keep_sums, corrected in product(FORMATS, (False, True), (False, True)):
            key = {
                "task": name,
                "backbone": chain.manifest.name,
                "weights": form.weights,
                "grid": form.grid,
                "activation": form.scheme.activation.dtype,
                "equalised": equalised,
                "keep_sums": keep_sums,
                "corrected": corrected,
            }
            if rows.has(**key):
                continue
            if record is None:
                record = calibrate(chain, from_path(data, limit=limit))
                expected = 100 * evaluate(chain, folder, stems)[name]
            scheme = replace(form.scheme, keep_sums=keep_sums)
            made = quantise_stages(chain.stages, record, scheme, correct_biases=corrected)
            given = 100 * evaluate(chain.quantised(made), folder, stems)[name]
            rows.add(**key, miou_float=expected, miou_int8=given, drop=expected - given)
    click.echo(rows.text())


if __name__ == "__main__":
    main()
