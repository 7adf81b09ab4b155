"""Cross-layer equalisation and bias correction, where a weight has one scale and where each channel has its own.

Rows: task, backbone, weights, grid, activation, equalised, corrected, miou_float, miou_int8 (percent, test split, the
images' own size; the Q/DQ graphs simulated in ONNX Runtime), drop. Ranges come from the train split.

    python benchmarks/equalisation.py lite0.stages landcover.task data/landcover --json out.json
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from stagekit_calib.accuracy import evaluate
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.cpu import instruction_sets
from stagekit.data.folder import Folder
from stagekit.quant.formats import NumberFormat
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages

PATH = click.Path(path_type=Path)


@dataclass(frozen=True)
class Case:
    """A number format that hurts."""

    weights: str
    grid: str
    scheme: QuantScheme


UNSIGNED = NumberFormat("uint8", symmetric=False)
SHIFTS = NumberFormat("int8", symmetric=True, grid="power_of_two")
CASES = (
    Case("one scale", "float", QuantScheme(UNSIGNED, per_channel=False)),
    Case("one scale", "power of two", QuantScheme(SHIFTS, SHIFTS, per_channel=False)),
    Case("per channel", "power of two", QuantScheme(SHIFTS, SHIFTS)),
)


@click.command()
@click.argument("stages", type=PATH)
@click.argument("task", type=PATH)
@click.argument("data", type=PATH)
@click.option("--limit", default=48, show_default=True, help="Calibration images.")
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(stages: Path, task: Path, data: Path, limit: int, path: Path | None) -> None:
    rows: list[dict[str, Any]] = []
    folder = Folder.open(data)
    stems = folder.stems("test")
    for equalised in (False, True):
        chain = open_chain(stages, [task], equalised=equalised)
        (name,) = chain.tasks
        record = calibrate(chain, from_path(data, limit=limit))
        expected = 100 * evaluate(chain, folder, stems)[name]
        for case in CASES:
            for corrected in (False, True):
                made = quantise_stages(chain.stages, record, case.scheme, correct_biases=corrected)
                given = 100 * evaluate(chain.quantised(made), folder, stems)[name]
                rows.append(
                    {
                        "task": name,
                        "backbone": chain.manifest.name,
                        "weights": case.weights,
                        "grid": case.grid,
                        "activation": case.scheme.activation.dtype,
                        "equalised": equalised,
                        "corrected": corrected,
                        "miou_float": round(expected, 3),
                        "miou_int8": round(given, 3),
                        "drop": round(expected - given, 3),
                    }
                )
                click.echo("  " + ", ".join(f"{k} {v}" for k, v in rows[-1].items()), err=True)
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
