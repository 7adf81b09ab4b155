"""What calibrating takes, beside ONNX Runtime's and NNCF's own quantisers: seconds, memory, and mIoU afterwards.

Each tool runs in a process of its own, on the same network, images and cores, with its defaults; the others get the
network as one graph and quantise SPMs and head as well. Rows: tool, task, backbone, images, generated (whether
they are made up, for memory alone), seconds and cpu_seconds (from the float network to the quantised one), peak_mib
(of the process up to there), and for real images ``miou``: percent on the test split, by what ran the result.

    python benchmarks/calibration_cost.py lite0.stages sea.task data/sea --json out.json
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
from calibration import FLOAT, Rows, score
from joined import joined, nncf_quantised, ort_quantised
from stagekit_calib.chain import Chain, open_chain
from stagekit_calib.readers import Images, from_iterable, from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.bundle import StagesManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.quant.record import save
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.session import Session
from stagekit.store import Store
from stagekit.targets import load_profile

PATH = click.Path(path_type=Path)
TOOLS = ("stagekit", "quantize_static", "nncf")
Labels = Callable[[Any], Any]
"""From an image to its labels."""


@click.command()
@click.argument("stages", type=PATH)
@click.argument("task", type=PATH)
@click.argument("data", type=PATH)
@click.option("--tool", "tools", multiple=True, type=click.Choice(TOOLS), default=TOOLS, show_default=True)
@click.option("--limit", default=48, show_default=True, help="Calibration images.")
@click.option("--generated", multiple=True, type=int, default=[10, 1000], show_default=True, help="Memory at so many.")
@click.option("--json", "path", type=PATH, help="Rows are written here as they come; those found there are kept.")
@click.option("--child", hidden=True, type=int, help="In a process of its own: 0, or how many generated images.")
def main(
    stages: Path,
    task: Path,
    data: Path,
    tools: tuple[str, ...],
    limit: int,
    generated: tuple[int, ...],
    path: Path | None,
    child: int | None,
) -> None:
    if child is not None:
        (tool,) = tools
        click.echo(json.dumps(measure(tool, stages, task, data, limit, child)))
        return
    if "nncf" in tools and find_spec("nncf") is None:
        raise click.ClickException("nncf is not installed: pip install nncf, or name other tools with --tool")
    rows = Rows(path)
    known = {"task": task.stem, "backbone": read_manifest(stages, StagesManifest).name}
    for tool in tools:
        for count in (0, *generated):
            if rows.has(tool=tool, **known, generated=bool(count), **({"images": count} if count else {})):
                continue
            arguments = [str(a) for a in (stages, task, data, "--tool", tool, "--limit", limit, "--child", count)]
            command = [sys.executable, __file__, *arguments]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.add(**json.loads(found.stdout.splitlines()[-1]))
    click.echo(rows.text())


def measure(tool: str, stages: Path, task: Path, data: Path, limit: int, generated: int) -> dict[str, Any]:
    """One row."""
    images = made_up(generated) if generated else from_path(data, limit=limit)
    with tempfile.TemporaryDirectory() as scratch:
        chain = open_chain(stages, [task])
        quantise = {"stagekit": _own, "quantize_static": _other(ort_quantised), "nncf": _other(nncf_quantised)}[tool]
        begun, used = time.perf_counter(), time.process_time()
        runs = quantise(chain, images, Path(scratch))
        row: dict[str, Any] = {
            "tool": tool,
            "task": task.stem,
            "backbone": chain.manifest.name,
            "images": generated or images.total,
            "generated": bool(generated),
            "seconds": round(time.perf_counter() - begun, 2),
            "cpu_seconds": round(time.process_time() - used, 2),
            "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        }
        if not generated:
            folder = Folder.open(data)
            row["miou"] = {name: round(score(folder, run), 3) for name, run in runs(stages, task)}
        return row


Runs = Callable[[Path, Path], Iterator[tuple[str, Labels]]]
"""From stages and task to what runs the quantised network, with names."""


def _own(chain: Chain, images: Images, folder: Path) -> Runs:
    record = calibrate(chain, images)
    save(record, folder / "x.calib")
    quantise_stages(chain.stages, record, scheme_of(load_profile("ort-int8")))

    def runs(stages: Path, task: Path) -> Iterator[tuple[str, Labels]]:
        for profile, float_ in FLOAT.items():
            yield float_, _session([stages, task], float_, folder, None, False)
            yield profile, _session([stages, task], profile, folder, folder / "x.calib", False)
            yield f"{profile}, adapters too", _session([stages, task], profile, folder, folder / "x.calib", True)

    return runs


def _session(bundles: list[Path], profile: str, folder: Path, record: Path | None, int8_adapters: bool) -> Labels:
    output, store = folder / "run.deploy", Store(folder / "store")
    compile(bundles, profile=profile, calibration=record, output=output, store=store, int8_adapters=int8_adapters)
    session = Session(output)
    (name,) = session.tasks
    return lambda image: session.run(image)[name]


def _other(quantised: Callable[..., Any]) -> Callable[[Chain, Images, Path], Runs]:
    def quantise(chain: Chain, images: Images, folder: Path) -> Runs:
        geometry = chain.geometry(next(iter(chain.tasks)))
        whole = folder / "whole.onnx"
        joined(chain).save(whole)
        frames = [geometry.apply(image)[0][None] for _, image in images]
        run = quantised(whole, frames, folder)

        def labels(image: Any) -> Any:
            pixels, placement = geometry.apply(image)
            return placement.labels_to_image(run(pixels[None])[0])

        return lambda stages, task: iter([("its own", labels)])

    return quantise


def made_up(count: int) -> Images:
    """Random images of 8 x 8 coloured squares."""

    def pictures() -> Iterator[Any]:
        for index in range(count):
            coarse = np.random.default_rng(index).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            yield np.kron(coarse, np.ones((28, 28, 1), np.uint8))

    return Images("generated", count, lambda: iter(from_iterable(pictures())))


if __name__ == "__main__":
    main()
