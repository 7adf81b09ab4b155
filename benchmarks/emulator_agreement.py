"""Whether the interpreters of the fixed-point target agree on every bit, on whole networks and real images.

The fast interpreter is compared with the reference (numpy int64) on some images and with float64 sums in BLAS on
more, at every boundary of the stages; each stage reads what the fast one gave before it. Rows: model, size, target,
profile, reference_images, float64_images, compared_values, mismatched_values (of either).

    python benchmarks/emulator_agreement.py resnet50.stages vit_s14.stages --data images/ --json out.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.engine import to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.lowering import lowered
from stagekit_fixedpoint.target import device_of

from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.target import load_profile

PATH = click.Path(path_type=Path)


@click.command(help=__doc__)
@click.argument("stages", type=PATH, nargs=-1, required=True)
@click.option("--data", type=PATH, required=True, help="A folder of images.")
@click.option("--profile", "profiles", multiple=True, default=["dpu-b4096-zcu104"], show_default=True)
@click.option("--reference-images", default=5, show_default=True)
@click.option("--float64-images", default=100, show_default=True)
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(
    stages: tuple[Path, ...],
    data: Path,
    profiles: tuple[str, ...],
    reference_images: int,
    float64_images: int,
    path: Path | None,
) -> None:
    rows: list[dict[str, Any]] = []
    for bundle in stages:
        chain = open_chain(bundle, equalised=True)
        record = calibrate(chain, from_path(data, limit=8), "minmax")
        geometry = chain.geometry("")
        for profile in profiles:
            device, scheme = device_of(load_profile(profile)), scheme_of(load_profile(profile))
            programs = [lowered(g, device).program for g in quantise_stages(chain.stages, record, scheme).graphs]
            fasts = [Fast(program) for program in programs]
            compared = wrong = count = 0
            for count, (_, image) in enumerate(from_path(data, limit=float64_images), 1):
                values = [np.ascontiguousarray(geometry.apply(image)[0])[None]]
                for program, fast in zip(programs, fasts, strict=True):
                    given = {n: to_stored(v, program.tensors[n]) for n, v in zip(program.inputs, values, strict=True)}
                    found = fast.run(given)
                    others = [blas.run(program, given)]
                    if count <= reference_images:
                        exact = {n: v.astype(np.int64) for n, v in given.items()}
                        others.append(reference.run(program, exact))
                    for name in program.outputs:
                        compared += found[name].size * len(others)
                        wrong += sum(int((found[name] != other[name]).sum()) for other in others)
                    values = [found[name] for name in program.outputs]
            row = {
                "model": chain.manifest.name,
                "size": chain.manifest.frame.height,
                "target": "fixedpoint",
                "profile": profile,
                "reference_images": min(reference_images, count),
                "float64_images": count,
                "compared_values": compared,
                "mismatched_values": wrong,
            }
            rows.append(row)
            click.echo(f"  {row}", err=True)
            if path:
                path.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    click.echo(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
