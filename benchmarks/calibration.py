"""int8 against float: mIoU of every calibrator on real tasks, in the engines that a user runs.

Rows of the table: task, backbone, target, profile, method, keep_float, equalised, images, miou_float, miou_int8,
drop (points), integer_share (of the frozen stages' MACs), calibration_seconds. mIoU is over the data set's test
split, in percent, in the images' own size; ranges come from its train split.

    python benchmarks/calibration.py --case lite0.stages landcover.task data/landcover --json out.json
    python benchmarks/calibration.py --case ... --new-task sea.task data/sea        # a task added later
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import click
from stagekit_calib.chain import Chain, open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate, extend

from stagekit.build.compile import compile
from stagekit.bundle import TaskManifest, read_manifest
from stagekit.cpu import instruction_sets
from stagekit.data.folder import Folder
from stagekit.data.metrics import Confusion
from stagekit.quant.ranges import METHODS
from stagekit.quant.record import Audit, Calibration, load, save, task_binding
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.session import Session
from stagekit.store import Store
from stagekit.target import load_profile

PATH = click.Path(path_type=Path)
FLOAT = {"ort-int8": "ort-f32", "ov-int8": "ov-f32"}
METHODS_SHOWN = [*(m for m in METHODS), "percentile:99.9"]


@click.command()
@click.option("--case", "cases", type=(PATH, PATH, PATH), multiple=True, required=True, help="STAGES TASK DATA")
@click.option("--new-task", type=(PATH, PATH), help="TASK DATA added to the first case's record later.")
@click.option("--profile", "profiles", multiple=True, default=list(FLOAT), show_default=True)
@click.option("--method", "methods", multiple=True, default=METHODS_SHOWN, show_default=True)
@click.option("--limit", default=64, show_default=True, help="Calibration images.")
@click.option("--keep-float", multiple=True, help="Patterns stage/node,... in floats: a row more, first method.")
@click.option("--equalise", is_flag=True, help="Even out the weights first.")
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(
    cases: tuple[tuple[Path, Path, Path], ...],
    new_task: tuple[Path, Path] | None,
    profiles: tuple[str, ...],
    methods: tuple[str, ...],
    limit: int,
    keep_float: tuple[str, ...],
    equalise: bool,
    path: Path | None,
) -> None:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rows, path)
        for case in cases:
            bench.calibrators(*case, profiles, methods, limit, keep_float, equalise)
        if new_task:
            bench.later(*cases[0], *new_task, profiles, limit)
    click.echo(written(rows, path))


class Bench:
    """Measures into rows, and writes them as they come; everything it builds lies in one folder."""

    def __init__(self, folder: Path, rows: list[dict[str, Any]], path: Path | None) -> None:
        self.folder = folder
        self.rows = rows
        self.path = path
        self.store = Store(folder / "store")

    def add(self, **row: Any) -> None:
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        self.rows.append(shown)
        written(self.rows, self.path)
        click.echo("  " + ", ".join(f"{k} {v}" for k, v in shown.items()), err=True)

    def miou(self, stages: Path, task: Path, data: Path, profile: str, record: Path | None = None) -> float:
        """Percent, of a deployment run by a session."""
        output = self.folder / "run.deploy"
        name = read_manifest(task, TaskManifest).name
        compile([stages, task], profile=profile, output=output, calibration=record, store=self.store)
        with Session(output) as session:
            return score(Folder.open(data), lambda image: session.run(image)[name])

    def calibrators(
        self,
        stages: Path,
        task: Path,
        data: Path,
        profiles: tuple[str, ...],
        methods: tuple[str, ...],
        limit: int,
        keep_float: tuple[str, ...],
        equalise: bool,
    ) -> None:
        """One row for each target, method and set kept in floats; the histograms are taken once."""
        chain = open_chain(stages, [task], equalised=equalise)
        begun = time.perf_counter()
        record = calibrate(chain, from_path(data, limit=limit))
        seconds = time.perf_counter() - begun
        expected = {p: self.miou(stages, task, data, FLOAT[p]) for p in profiles}
        variants = [(m, ()) for m in methods] + [(methods[0], tuple(k.split(","))) for k in keep_float]
        for (method, kept), profile in product(variants, profiles):
            saved = self.folder / "bench.calib"
            save(replace(record, method=method, keep_float=kept), saved)
            given = self.miou(stages, task, data, profile, saved)
            self.add(
                **self.facts(chain, profile),
                method=method,
                keep_float=list(kept),
                equalised=equalise,
                images=record.data[0].images,
                miou_float=expected[profile],
                miou_int8=given,
                drop=expected[profile] - given,
                integer_share=share(chain, load(saved), profile),
                calibration_seconds=seconds,
            )

    def later(
        self, stages: Path, task: Path, data: Path, new: Path, new_data: Path, profiles: tuple[str, ...], limit: int
    ) -> None:
        """A record of one task, another added: as it is (past the refusal), and after extending."""
        record = calibrate(open_chain(stages, [task]), from_path(data, limit=limit))
        chain = open_chain(stages, [new])
        harmless = Audit(task=task_binding(read_manifest(new, TaskManifest)), images=1, worst=0.0, tensor="measured")
        grown = extend(record, chain, from_path(new_data, limit=limit))
        for profile in profiles:
            expected = self.miou(stages, new, new_data, FLOAT[profile])
            for name, made in (("before extend", replace(record, audits=(harmless,))), ("after extend", grown)):
                saved = self.folder / "later.calib"
                save(made, saved)
                given = self.miou(stages, new, new_data, profile, saved)
                drop = expected - given
                self.add(**self.facts(chain, profile), method=name, miou_float=expected, miou_int8=given, drop=drop)

    def facts(self, chain: Chain, profile: str) -> dict[str, Any]:
        target = load_profile(profile).target
        return {"task": next(iter(chain.tasks)), "backbone": chain.manifest.name, "target": target, "profile": profile}


def written(rows: list[dict[str, Any]], path: Path | None) -> str:
    """The rows as JSON; also in a file, if there shall be one."""
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return text


def score(folder: Folder, run: Any) -> float:
    """mIoU in percent over the test split."""
    counts = Confusion(len(folder.classes.names))
    for sample in folder.samples("test"):
        counts.update(run(sample.image), sample.mask)
    return 100 * counts.miou()


def share(chain: Chain, record: Calibration, profile: str) -> float:
    return quantise_stages(chain.stages, record, scheme_of(load_profile(profile))).integer_share


if __name__ == "__main__":
    main()
