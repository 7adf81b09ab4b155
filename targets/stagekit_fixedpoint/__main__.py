"""Memory images of a deployment for a hardware team's test bench, and each layer under its device's roof.

    python -m stagekit_fixedpoint lite0.deploy -o memory/ --image photo.jpg

Writes a folder for each stage: ``program.json``, ``memory.npz``, ``roofline.txt`` and, of the image, ``vectors/`` with
what each layer reads and gives. The image runs through the stages alone, without any task's prompts.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np

from stagekit.build.deploy import ENGINES
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.data.geometry import Geometry
from stagekit.data.images import read_image
from stagekit.errors import StagekitError, UsageError
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.engine import to_stored
from stagekit_fixedpoint.export import export
from stagekit_fixedpoint.program import Array
from stagekit_fixedpoint.report import report, roofline
from stagekit_fixedpoint.target import FixedPointTarget, load_program

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("deployment", type=PATH)
@click.option("-o", "--output", type=PATH, required=True, help="The folder to write.")
@click.option("--image", type=PATH, help="The image whose vectors are written; none without it.")
@click.option("--device-file", help="The device's description, where the profile names one of its own.")
def main(deployment: Path, output: Path, image: Path | None, device_file: str | None) -> None:
    """Memory images, vectors of an IMAGE for each layer, and a roofline, of a DEPLOYMENT for a fixed-point device."""
    try:
        for line in write_memory(deployment, output, image, device_file):
            click.echo(line)
    except StagekitError as error:
        raise click.ClickException(str(error)) from error


def write_memory(deployment: Path, output: Path, image: Path | None, device_file: str | None = None) -> list[str]:
    """Writes the folders; returns a line for each.

    Raises:
        UsageError: the deployment is for another target.
        BundleError, EngineError, ImageError: a file is damaged.
    """
    manifest = read_manifest(deployment, DeployManifest)
    if manifest.target != FixedPointTarget.name:
        raise UsageError(f"its target is {manifest.target}; memory images are of fixed-point engines", where=deployment)
    device = load_device(device_file or manifest.device, where=f"the device of {deployment.name}")
    frame = manifest.frame
    values: list[Array] = []
    if image is not None:
        geometry = Geometry(frame.height, frame.width, frame.resize, frame.fill)
        values = [np.ascontiguousarray(geometry.apply(read_image(image))[0])[None]]
    lines = []
    for stage in manifest.stages:
        program, folder = load_program(deployment / ENGINES / stage.engine), output / stage.name
        given = {n: to_stored(v, program.tensors[n]) for n, v in zip(program.inputs, values, strict=False)}
        whole = len(given) == len(program.inputs)
        seen = reference.run(program, given, keep=True) if whole else None
        files = export(program, folder, seen)
        (folder / "roofline.txt").write_text(roofline(report(program, device), device) + "\n", encoding="utf-8")
        values = [seen[n] for n in program.outputs] if seen else []
        lines.append(f"{folder}: {len(program.steps)} layers, {len(files) - 2} vectors")
    return lines


if __name__ == "__main__":
    main(prog_name="python -m stagekit_fixedpoint")
