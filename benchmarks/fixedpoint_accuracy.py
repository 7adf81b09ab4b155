"""mIoU of whole tasks with their stages in fixed point: int8 on a power-of-two grid, int16, against floats.

Stages run on the emulated device, SPMs and heads in float on the CPU, as ``stagekit run`` does it. Rows of the
table: task, backbone, target, profile, method, equalised, images, split, miou_float, miou_int8 (also for 16 bits),
drop, integer_share (of the frozen stages' multiply-accumulates, all of them on the device). mIoU is over a split of the
data set, in percent, in the images' own size; ranges come from its train split.

    python benchmarks/fixedpoint_accuracy.py --case lite0.stages landcover.task data/landcover --json out.json
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.bundle import TaskManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.data.metrics import Confusion
from stagekit.quant.record import save
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.session import Session
from stagekit.store import Store
from stagekit.targets import load_profile

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--case", "cases", type=(PATH, PATH, PATH), multiple=True, required=True, help="STAGES TASK DATA")
@click.option("--profile", "profiles", multiple=True, default=["dpu-b4096-zcu104", "hls-16-6"], show_default=True)
@click.option("--method", "methods", multiple=True, default=["minmax"], show_default=True)
@click.option("--plain", is_flag=True, help="Also 8 bits without equalisation; 16 bits never need it.")
@click.option("--split", "splits", multiple=True, default=["test"], show_default=True, help="Splits to score on.")
@click.option("--limit", default=48, show_default=True, help="Calibration images.")
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(
    cases: tuple[tuple[Path, Path, Path], ...],
    profiles: tuple[str, ...],
    methods: tuple[str, ...],
    plain: bool,
    splits: tuple[str, ...],
    limit: int,
    path: Path | None,
) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = Store(folder / "store")
        for stages, task, data in cases:
            expected = miou(stages, task, data, folder, store, splits, profile="ort-f32")
            for even in (True, False):
                wanted = [
                    p
                    for p in profiles
                    if even == (scheme_of(load_profile(p)).weight.dtype == "int8") or (plain and not even)
                ]
                if not wanted:
                    continue
                chain = open_chain(stages, [task], equalised=even)
                record = calibrate(chain, from_path(data, limit=limit))
                for method, profile in product(methods, wanted):
                    given = replace(record, method=method)
                    save(given, folder / "bench.calib")
                    options = {"profile": profile, "calibration": folder / "bench.calib"}
                    measured = miou(stages, task, data, folder, store, splits, **options)
                    scheme = scheme_of(load_profile(profile))
                    share = quantise_stages(chain.stages, given, scheme).integer_share
                    for split in splits:
                        row = {
                            "task": read_manifest(task, TaskManifest).name,
                            "backbone": chain.manifest.name,
                            "target": "fixedpoint",
                            "profile": profile,
                            "method": method,
                            "equalised": even,
                            "images": record.data[0].images,
                            "split": split,
                            "miou_float": round(expected[split], 4),
                            "miou_int8": round(measured[split], 4),
                            "drop": round(expected[split] - measured[split], 4),
                            "integer_share": share,
                        }
                        rows.append(row)
                        if path:
                            path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
                        click.echo("  " + ", ".join(f"{k} {v}" for k, v in row.items()), err=True)
    click.echo(json.dumps({"rows": rows}, indent=1))


def miou(
    stages: Path, task: Path, data: Path, folder: Path, store: Store, splits: tuple[str, ...], **options: Any
) -> dict[str, float]:
    """Percent by split, of a deployment run by a session."""
    output, name = folder / "run.deploy", read_manifest(task, TaskManifest).name
    compile([stages, task], output=output, store=store, **options)
    images = Folder.open(data)
    found = {}
    with Session(output) as session:
        for split in splits:
            counts = Confusion(len(images.classes.names))
            for sample in images.samples(split):
                counts.update(session.run(sample.image)[name], sample.mask)
            found[split] = 100 * counts.miou()
    return found


if __name__ == "__main__":
    main()
