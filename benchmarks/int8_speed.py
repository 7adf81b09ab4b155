"""Staged int8 against floats: milliseconds of one frame through the chain of stage engines, interleaved.

Rows: model, size, target, profile, precision, us_per_call (best of the rounds), ratio (to int8).

    python benchmarks/int8_speed.py --stages resnet50_512.stages --data data/landcover --json out.json
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.bundle import StagesManifest, read_manifest
from stagekit.cpu import instruction_sets
from stagekit.quant.record import save
from stagekit.store import Store, load_entry
from stagekit.target import HostBuffer
from stagekit.targets import get, load_profile

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--stages", type=PATH, multiple=True, required=True)
@click.option("--data", type=PATH, required=True, help="Images to calibrate on.")
@click.option("--profile", "profiles", multiple=True, default=["ov-f32", "ov-bf16", "ov-int8", "ort-f32", "ort-int8"])
@click.option("--rounds", default=20, show_default=True)
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(stages: tuple[Path, ...], data: Path, profiles: tuple[str, ...], rounds: int, path: Path | None) -> None:
    rows: list[dict[str, Any]] = []
    for bundle in stages:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(bundle, data, profiles, rounds, Path(folder))
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def measure(bundle: Path, data: Path, profiles: tuple[str, ...], rounds: int, folder: Path) -> list[dict[str, Any]]:
    manifest = read_manifest(bundle, StagesManifest)
    save(calibrate(open_chain(bundle), from_path(data, limit=8)), folder / "x.calib")
    frame = next(iter(from_path(data)))[1]
    runs = {p: opened(bundle, p, folder, frame) for p in profiles}
    best = dict.fromkeys(profiles, float("inf"))
    for run in runs.values():
        run()
    for _ in range(rounds):
        for profile, run in runs.items():
            begun = time.perf_counter()
            run()
            best[profile] = min(best[profile], time.perf_counter() - begun)
    size = f"{manifest.frame.height}x{manifest.frame.width}"
    rows = []
    for profile, seconds in best.items():
        made = load_profile(profile)
        integers = next((s for p, s in best.items() if load_profile(p).target == made.target and "int8" in p), None)
        facts = {"model": manifest.name, "size": size, "target": made.target, "profile": profile}
        ratio = round(seconds / integers, 2) if integers else None
        rows.append({**facts, "precision": made.precision, "us_per_call": round(1e6 * seconds), "ratio": ratio})
    return rows


def opened(bundle: Path, name: str, folder: Path, image: Any) -> Callable[[], None]:
    """The chain of stage engines on one frame."""
    store = Store(folder / "store")
    record = folder / "x.calib" if "int8" in name else None
    compiled = compile([bundle], profile=name, calibration=record, store=store, output=folder / f"{name}.deploy")
    profile = load_profile(name)
    target = get(profile.target)
    engines = folder / f"{name}.deploy" / "engines"
    lanes = [target.load(load_entry(engines / s.engine, s.engine), profile).lane() for s in compiled.manifest.stages]
    pixels = open_chain(bundle).geometry("").apply(image)[0][None]
    frame = HostBuffer(replace(compiled.manifest.frame.spec, shape=pixels.shape), np.ascontiguousarray(pixels))

    def run() -> None:
        values: tuple[Any, ...] = (frame,)
        for lane in lanes:
            values = lane.submit(values, 1).wait()

    return run


if __name__ == "__main__":
    main()
