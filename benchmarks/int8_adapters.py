"""SPMs and heads in int8 as well: what that costs in mIoU, and what it saves.

Rows: task, backbone, target, profile, speed (whether timed), and then miou_float, miou_stages (stages in int8,
adapters in floats), miou_all (both in int8), drop_stages and drop_all (points); or, with ``--speed``, us_float and
us_int8 (one call of each of the task's SPMs and its head, the best of the rounds, float and int8 in turn) and ratio
(float to int8). mIoU is over the test split, in percent, in the images' own size; ranges come from the train split.

    python benchmarks/int8_adapters.py --case lite0.stages sea.task data/sea --json out.json
    python benchmarks/int8_adapters.py --case lite0.stages sea.task data/sea --speed     # on a quiet machine
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
from calibration import FLOAT, Rows, facts, score
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.build.deploy import ENGINES
from stagekit.bundle import DeployManifest
from stagekit.data.folder import Folder
from stagekit.quant.record import save
from stagekit.session import Session
from stagekit.store import Store, load_entry
from stagekit.target import HostBuffer
from stagekit.targets import get, load_profile

PATH = click.Path(path_type=Path)


@click.command()
@click.option("--case", "cases", type=(PATH, PATH, PATH), multiple=True, required=True, help="STAGES TASK DATA")
@click.option("--profile", "profiles", multiple=True, default=list(FLOAT), show_default=True)
@click.option("--limit", default=48, show_default=True, help="Calibration images.")
@click.option("--speed", is_flag=True, help="Time instead of mIoU.")
@click.option("--rounds", default=30, show_default=True)
@click.option("--json", "path", type=PATH, help="Rows are written here as they come; those found there are kept.")
def main(
    cases: tuple[tuple[Path, Path, Path], ...],
    profiles: tuple[str, ...],
    limit: int,
    speed: bool,
    rounds: int,
    path: Path | None,
) -> None:
    rows = Rows(path)
    for stages, task, data in cases:
        chain = open_chain(stages, [task])
        found = {profile: facts(chain, profile) for profile in profiles}
        missing = [p for p in profiles if not rows.has(**found[p], speed=speed)]
        if not missing:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            folder, bundles, record = Path(scratch), [stages, task], Path(scratch) / "x.calib"
            save(calibrate(chain, from_path(data, limit=limit)), record)
            for profile in missing:
                made = {
                    "stages": _compiled(folder, bundles, profile, record, False),
                    "all": _compiled(folder, bundles, profile, record, True),
                }
                if speed:
                    float_, integer = _best([_adapters(deployment) for deployment in made.values()], rounds)
                    values = {"us_float": 1e6 * float_, "us_int8": 1e6 * integer, "ratio": float_ / integer}
                else:
                    made["float"] = _compiled(folder, bundles, FLOAT[profile], None, False)
                    miou = {label: _miou(deployment, data) for label, deployment in made.items()}
                    values = {f"miou_{label}": value for label, value in miou.items()}
                    values |= {f"drop_{label}": miou["float"] - miou[label] for label in ("stages", "all")}
                rows.add(**found[profile], speed=speed, **values)
    click.echo(rows.text())


def _compiled(folder: Path, bundles: list[Path], profile: str, record: Path | None, int8_adapters: bool) -> Path:
    output = folder / f"{profile}{'-all' if int8_adapters else ''}.deploy"
    store = Store(folder / "store")
    compile(bundles, profile=profile, calibration=record, output=output, store=store, int8_adapters=int8_adapters)
    return output


def _miou(deployment: Path, data: Path) -> float:
    with Session(deployment) as session:
        (task,) = session.tasks
        return score(Folder.open(data), lambda image: session.run(image)[task])


def _adapters(deployment: Path) -> Callable[[], None]:
    """One call of each SPM and of the head of a deployment's only task."""
    with Session(deployment) as session:
        manifest: DeployManifest = session.manifest
    profile = load_profile(manifest.profile["name"])
    target = get(profile.target)
    calls = []
    (task,) = manifest.tasks
    for digest in (*(p.engine for p in task.prompts), task.head):
        engine = target.load(load_entry(deployment / ENGINES / digest, digest), profile)
        specs = [s.bind(batch=1) for s in engine.inputs]
        generator = np.random.default_rng(0)
        values = [generator.normal(0, 20, s.shape).clip(0, 120).astype(s.dtype) for s in specs]
        calls.append((engine.lane(), [HostBuffer(s, v) for s, v in zip(specs, values, strict=True)]))

    def run() -> None:
        for lane, inputs in calls:
            lane.submit(inputs, 1).wait()

    return run


def _best(runs: list[Callable[[], None]], rounds: int) -> list[float]:
    """Seconds of each, the best of interleaved rounds behind three that warm up."""
    best = [float("inf")] * len(runs)
    for index in range(rounds + 3):
        for which, run in enumerate(runs):
            begun = time.perf_counter()
            run()
            if index >= 3:
                best[which] = min(best[which], time.perf_counter() - begun)
    return best


if __name__ == "__main__":
    main()
