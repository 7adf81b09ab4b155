"""int8 against float: mIoU of every calibrator on real tasks, in the engines that a user runs.

Rows of the table: task, backbone, target, profile, method, keep_float, equalised, images, miou_float, miou_int8,
drop (points), integer_share (of the frozen stages' MACs), calibration_seconds. mIoU is over the data set's test
split, in percent, in the images' own size; ranges come from its train split.

    python benchmarks/calibration.py --case lite0.stages landcover.task data/landcover --json out.json
    python benchmarks/calibration.py --case ... --record x.calib      # made with `stagekit calibrate --analyze`
"""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import click
from stagekit_calib.chain import Chain, open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.bundle import TaskManifest, read_manifest
from stagekit.cpu import instruction_sets
from stagekit.data.folder import Folder
from stagekit.data.metrics import Confusion
from stagekit.quant.ranges import METHODS
from stagekit.quant.record import Calibration, load, save
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.session import Session
from stagekit.store import Store
from stagekit.targets import load_profile

PATH = click.Path(path_type=Path)
FLOAT = {"ort-int8": "ort-f32", "ov-int8": "ov-f32"}
PLAIN = {load_profile(integers).target: floats for integers, floats in FLOAT.items()}
"""By target: what a profile of one's own is compared with."""
METHODS_SHOWN = [*(m for m in METHODS), "percentile:99.9"]


@click.command()
@click.option("--case", "cases", type=(PATH, PATH, PATH), multiple=True, required=True, help="STAGES TASK DATA")
@click.option("--profile", "profiles", multiple=True, default=list(FLOAT), show_default=True)
@click.option("--method", "methods", multiple=True, default=METHODS_SHOWN, show_default=True)
@click.option("--limit", default=64, show_default=True, help="Calibration images.")
@click.option(
    "--record", type=PATH, help="Measure a finished record of the first case as well, with its nodes in floats."
)
@click.option("--equalise", is_flag=True, help="Even out the weights first.")
@click.option("--json", "path", type=PATH, help="Rows are written here as they come; those found there are kept.")
def main(
    cases: tuple[tuple[Path, Path, Path], ...],
    profiles: tuple[str, ...],
    methods: tuple[str, ...],
    limit: int,
    record: Path | None,
    equalise: bool,
    path: Path | None,
) -> None:
    rows = Rows(path)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), rows)
        for case in cases:
            bench.calibrators(*case, profiles, methods, limit, equalise)
        if record:
            bench.finished(*cases[0], profiles, record)
    click.echo(rows.text())


@dataclass
class Rows:
    """A benchmark's rows, in a JSON file as soon as they are measured; an interrupted run goes on where it was."""

    path: Path | None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.path and self.path.exists():
            self.rows = json.loads(self.path.read_text())["rows"]

    def has(self, **key: Any) -> bool:
        return any(all(row.get(k) == v for k, v in key.items()) for row in self.rows)

    def add(self, **row: Any) -> None:
        shown = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        self.rows.append(shown)
        click.echo("  " + ", ".join(f"{k} {v}" for k, v in shown.items()), err=True)
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(self.text() + "\n")

    def text(self) -> str:
        return json.dumps({"device": instruction_sets(), "rows": self.rows}, indent=1)


class Bench:
    """Measures into rows; everything it builds lies in one folder."""

    def __init__(self, folder: Path, rows: Rows) -> None:
        self.folder = folder
        self.rows = rows
        self.store = Store(folder / "store")

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
        equalise: bool,
    ) -> None:
        """One row for each target and method; the histograms are taken once."""
        chain = open_chain(stages, [task], equalised=equalise)
        images = from_path(data, limit=limit)
        missing = [
            (method, profile)
            for method, profile in product(methods, profiles)
            if not self.rows.has(
                **facts(chain, profile), method=method, keep_float=[], equalised=equalise, images=images.total
            )
        ]
        if not missing:
            return
        begun = time.perf_counter()
        record = calibrate(chain, images)
        seconds = time.perf_counter() - begun
        for method, profile in missing:
            made = replace(record, method=method)
            self.compared(chain, stages, task, data, profile, made, calibration_seconds=seconds)

    def finished(self, stages: Path, task: Path, data: Path, profiles: tuple[str, ...], path: Path) -> None:
        """A record as it is, with what it keeps in floats."""
        record = load(path)
        chain = open_chain(stages, [task], equalised=record.equalised)
        for profile in profiles:
            kept = list(record.keep_float)
            if not self.rows.has(**facts(chain, profile), method=record.method, keep_float=kept):
                self.compared(chain, stages, task, data, profile, record)

    def compared(
        self, chain: Chain, stages: Path, task: Path, data: Path, profile: str, record: Calibration, **more: Any
    ) -> None:
        """One row: int8 against float."""
        saved = self.folder / "bench.calib"
        save(record, saved)
        expected = self.floats(stages, task, data, PLAIN[load_profile(profile).target])
        given = self.miou(stages, task, data, profile, saved)
        self.rows.add(
            **facts(chain, profile),
            method=record.method,
            keep_float=list(record.keep_float),
            equalised=record.equalised,
            images=record.data[0].images,
            weight_bits=scheme_of(load_profile(profile)).weight.bits or 8,
            miou_float=expected,
            miou_int8=given,
            drop=expected - given,
            integer_share=share(chain, record, profile),
            **more,
        )

    @cache  # noqa: B019  # lives as long as the benchmark
    def floats(self, stages: Path, task: Path, data: Path, profile: str) -> float:
        return self.miou(stages, task, data, profile)


def facts(chain: Chain, profile: str) -> dict[str, Any]:
    found = load_profile(profile)
    named = {"target": found.target, "profile": found.name}
    return {"task": next(iter(chain.tasks)), "backbone": chain.manifest.name, **named}


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
