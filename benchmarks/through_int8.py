"""A task added to a record that was made without it: four ways to int8, tuned equally long.

Rows: task, backbone, target, profile, first (the task of the record), method, calibration, iterations, bound, seed,
miou_float, miou_int8, drop (points), worst_saturation. mIoU is over the data set's test split, in percent, in the
images' own size, by a session over the compiled deployment. ``drop`` is against the float task (``miou_float``,
tuned equally long, on the same target in floats). ``worst_saturation`` is the largest share (percent) of a frozen
tensor's values beyond its range, for images of the train split.

    python benchmarks/through_int8.py examples/sea.toml lite0.stages --data data/sea \\
        --first landcover.task data/landcover --iterations 150 --json out.json
    ... --profile benchmarks/profiles/ort-int8-one-scale.toml    # a format that does hurt
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import click
from calibration import FLOAT, PLAIN, Rows, score
from stagekit_calib.audit import saturation
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate, extend

from stagekit.build.compile import compile
from stagekit.bundle import StagesManifest, TaskManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.quant.record import Audit, Calibration, load, save, task_binding
from stagekit.quant.scheme import scheme_of
from stagekit.session import Session
from stagekit.store import Store
from stagekit.targets import load_profile
from stagekit.tune.recipe_file import read_recipe
from stagekit.tune.tune import tune

PATH = click.Path(path_type=Path)
WAYS = ("before extend", "after extend", "range-bound", "through int8")


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("stages", type=PATH)
@click.option("--data", type=PATH, required=True, help="The recipe's data set.")
@click.option("--first", type=(PATH, PATH), required=True, help="TASK DATA that the record is made of.")
@click.option("--iterations", default=150, show_default=True)
@click.option("--bound", default=1.0, show_default=True, help="Weight of the penalty in range-bound tuning.")
@click.option("--method", default="percentile", show_default=True, help="Calibration method.")
@click.option("--limit", default=48, show_default=True, help="Calibration images.")
@click.option("--set", "overrides", multiple=True, help="Further overrides of the recipe.")
@click.option("--profile", "profiles", multiple=True, default=list(FLOAT), show_default=True)
@click.option("--work", type=PATH, help="Keep record and tasks here; those found are not made again.")
@click.option("--way", "ways", multiple=True, type=click.Choice(WAYS), default=WAYS, show_default=True)
@click.option("--json", "path", type=PATH, help="Rows are written here as they come; those found there are kept.")
def main(
    recipe: Path,
    stages: Path,
    data: Path,
    first: tuple[Path, Path],
    iterations: int,
    bound: float,
    method: str,
    limit: int,
    overrides: tuple[str, ...],
    profiles: tuple[str, ...],
    work: Path | None,
    ways: tuple[str, ...],
    path: Path | None,
) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        ranges = (folder / "first.calib").absolute()
        if not ranges.exists():
            chain = open_chain(stages, [first[0]])
            save(calibrate(chain, from_path(first[1], limit=limit), method, name="first"), ranges)
        record = load(ranges)
        formats = ", ".join(f"'{Path(p).absolute() if p.endswith('.toml') else p}'" for p in profiles)
        simulated = (
            f"through.record='{ranges}'",
            f"through.stages='{stages.absolute()}'",
            f"through.profiles=[{formats}]",
        )
        variants = {
            "float": (),
            "range-bound": (*simulated, "through.simulate=false", f"through.bound={bound}"),
            "through int8": simulated,
        }
        rows = Rows(path)
        bench = Bench(folder, stages.absolute(), data, limit)
        tasks: dict[str, Path] = {}
        for name, added in variants.items():
            if name not in ("float", *ways):
                continue
            tasks[name] = folder / f"{name.replace(' ', '-')}.task"
            if not tasks[name].exists():
                tune(read_recipe(recipe, (f"train.iterations={iterations}", *overrides, *added), data), tasks[name])
        made_of = {name: read_manifest(task, TaskManifest) for name, task in tasks.items()}
        grown = None
        if "after extend" in ways:
            grown = extend(record, open_chain(stages, [tasks["float"]]), from_path(data, limit=limit))
        for profile in profiles:
            chosen = load_profile(profile)
            expected = None
            for label, variant, made in (
                ("before extend", "float", None),
                ("after extend", "float", grown),
                ("range-bound", "range-bound", None),
                ("through int8", "through int8", record),
            ):
                if label not in ways:
                    continue
                facts = made_of[variant].provenance["recipe"]
                key = {
                    "task": made_of[variant].name,
                    "backbone": bench.backbone,
                    "target": chosen.target,
                    "profile": chosen.name,
                    "first": first[0].stem,
                    "method": label,
                    "calibration": method,
                    "iterations": facts["train"]["iterations"],
                    "bound": facts.get("through", {}).get("bound", 0.0),
                    "seed": facts["train"]["seed"],
                }
                if rows.has(**key):
                    continue
                if expected is None:
                    expected = bench.miou(tasks["float"], PLAIN[chosen.target], None)
                made = made or bench.allowing(record, tasks[variant])
                found = bench.miou(tasks[variant], profile, made)
                rows.add(
                    **key,
                    miou_float=expected,
                    miou_int8=found,
                    drop=expected - found,
                    worst_saturation=bench.worst(made, tasks[variant], profile),
                )
    click.echo(rows.text())


class Bench:
    """Compiles and measures tasks over one chain of stages."""

    def __init__(self, folder: Path, stages: Path, data: Path, limit: int) -> None:
        self.folder, self.stages, self.limit = folder, stages, limit
        self.data = Folder.open(data)
        self.backbone = read_manifest(stages, StagesManifest).name
        self.store = Store(folder / "store")
        self.seen: dict[Path, Calibration] = {}

    def miou(self, task: Path, profile: str, record: Calibration | None) -> float:
        """Percent, of a deployment run by a session."""
        output, saved = self.folder / "run.deploy", self.folder / "run.calib"
        if record is not None:
            save(record, saved)
        calibration = None if record is None else saved
        compile([self.stages, task], profile=profile, output=output, calibration=calibration, store=self.store)
        name = read_manifest(task, TaskManifest).name
        with Session(output) as session:
            return score(self.data, lambda image: session.run(image)[name])

    def allowing(self, record: Calibration, task: Path) -> Calibration:
        """The record as it is, past the refusal of a task that it does not cover."""
        binding = task_binding(read_manifest(task, TaskManifest))
        return replace(record, audits=(Audit(task=binding, images=1, worst=0.0, tensor="measured"),))

    def worst(self, record: Calibration, task: Path, profile: str) -> float:
        """The largest share of a frozen tensor's values that saturates, in percent; the task in floats."""
        chain = open_chain(self.stages, [task])
        if task not in self.seen:
            self.seen[task] = calibrate(chain, from_path(self.data.root, limit=self.limit))
        return 100 * saturation(record, self.seen[task], scheme_of(load_profile(profile)), chain.stages)[0].share


if __name__ == "__main__":
    main()
