"""Every target of this machine over five backbones: times, accuracy, sizes; into benchmarks/results/device.json.

    python benchmarks/device.py --quick  # once, so that the next compiles nothing
    python benchmarks/device.py --budget 12
    python benchmarks/device_page.py     # docs/benchmarks.md and its picture from that file
    python benchmarks/readme.py          # README's table likewise

Lite0 and ViT-S/14 run their real tasks and are scored on test splits (`make data` builds those of Lite0); ResNet-50,
ResNet-101 and ViT-L/16 have random weights and an untrained task, and are timed alone. ViT-S/14's task is tuned by
examples/brain_vit.toml if data/brain is there (examples/data/brain.py); without, it is timed alone too.

Results are kept under --work: run again, an interrupted run goes on, and what was flagged noisy is measured once more.
``--quick`` measures a moment of everything into a folder of its own, which also fills the store with engines, so that
the real run compiles nothing.

Beside the rows: machine, versions, commit, date, left_out (profiles that cannot run here, and why).
Rows: commit, where (machine and day), model, deployment, target, precision, tasks, trained; figures as value, low,
high, kind: p50_ms, images_per_second, stages_ms and emulation_ms (emulated devices); miou and agreement (with the f32
reference) and over_uncut by task; engines_mb, memory_mb; scaling: milliseconds of n tasks together and apart; noisy:
why; share: of the cores' time that was ours.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
from multi_task import task as untrained_task
from place import measured_on
from stagekit_calib.verb import calibrate

from stagekit.bench import results
from stagekit.bench.cell import Bench
from stagekit.bench.matrix import Cell, cells, reference, run_matrix
from stagekit.bench.modelled import NAME, STAGES
from stagekit.bench.options import Options
from stagekit.bench.report import write_report
from stagekit.bench.report.headline import latency, latency_scenario
from stagekit.bench.results import Figure, Result
from stagekit.bundle import TaskManifest, read_manifest
from stagekit.models.weights import find_packaged_weights
from stagekit.partition.partition import partition_backbone

PATH = click.Path(path_type=Path)
ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "examples" / "pictures" / "landcover" / "images"
VIT_RECIPE = ROOT / "examples" / "brain_vit.toml"
CPU = ("ort-f32", "ort-int8", "ov-f32", "ov-bf16", "ov-int8", "ov-int8-bf16")
EMULATED = ("dpu-b4096-zcu104", "hls-16-6")
FRAME = (224, 224)
EQUALISED = ("dpu-b4096-zcu104", "dpu-b4096-zcu104-wide")
"""Profiles whose scales are powers of two for whole tensors, which need weights of like size (docs/fixed-point.md)."""


@dataclass(frozen=True, slots=True)
class Case:
    """A backbone with its tasks.

    Args:
        tasks: bundles by the name of their data set; none for an untrained task, timed alone.
        large: a backbone so slow that fewer queries must do.
    """

    title: str
    model: str
    profiles: tuple[str, ...] = (*CPU, *EMULATED)
    tasks: tuple[Path, ...] = ()
    large: bool = False


@click.command()
@click.option("--data", type=PATH, default=ROOT / "data", show_default=True, help="Holds a folder for each task.")
@click.option("--vit-task", type=PATH, help="Tuned before, for ViT-S/14; tuned by the recipe without.")
@click.option("--work", type=PATH, default=Path("out/benchmarks"), show_default=True)
@click.option("--only", multiple=True, help="Models; once for each.")
@click.option("--profile", "profiles", multiple=True, help="Likewise.")
@click.option("--budget", type=float, default=12.0, show_default=True, help="Minutes for all.")
@click.option("--quick", is_flag=True, help="A moment of everything, into WORK-quick; writes no figures.")
@click.option("--json", "path", type=PATH, default=ROOT / "benchmarks" / "results" / "device.json", show_default=True)
def main(
    data: Path,
    vit_task: Path | None,
    work: Path,
    only: tuple[str, ...],
    profiles: tuple[str, ...],
    budget: float,
    quick: bool,
    path: Path,
) -> None:
    parts = work / "parts"
    vit = brain(vit_task, data / "brain", parts) if not only or "vit_s14" in only else ()
    cases = [
        Case("EfficientNet-Lite0", "efficientnet_lite0", tasks=_examples("landcover", "sea")),
        Case(
            "ViT-S/14",
            "vit_s14",
            (*CPU, "dpu-b4096-zcu104-wide", "hls-16-6"),
            tasks=vit,
        ),
        Case("ResNet-50", "resnet50", (*CPU, EMULATED[0])),
        Case("ResNet-101", "resnet101", (*CPU, EMULATED[0])),
        Case("ViT-L/16", "vit_l16", ("ort-f32", "ov-f32", "ov-bf16"), large=True),
    ]
    place = work.with_name(f"{work.name}-quick") if quick else work
    until = time.monotonic() + 60 * budget
    rows: list[dict[str, Any]] = []
    last: Result | None = None
    chosen = [case for case in cases if not only or case.model in only]
    # Emulation is slow and hardly timed: it comes last, so that it takes no time from what runs here.
    for emulated in (False, True):
        for case in chosen:
            measure(case, emulated, profiles, data, parts, place / case.model, quick, until)
    for case in cases:
        found = reported(case, place / case.model)
        rows += [row(case, result) for result in found]
        last = found[-1] if found else last
    if quick or last is None:
        return
    facts: dict[str, Any] = {"machine": last.device.model_dump(), "versions": last.versions, "commit": last.commit}
    _, left_out = cells([], True)
    facts |= {"date": last.started[:10], "left_out": left_out, "rows": rows}
    path.write_text(json.dumps(facts, indent=1) + "\n")
    click.echo(f"{len(rows)} rows in {path}")


def brain(given: Path | None, data: Path, parts: Path) -> tuple[Path, ...]:
    """ViT-S/14's task: the one given, or tuned by the recipe; none where there are no data to tune on."""
    task = given or parts / "brain_vit.task"
    if (task / "manifest.json").is_file():
        return (task,)
    if given is not None:
        raise click.BadParameter(f"{given} is no tuned task", param_hint="--vit-task")
    if not data.is_dir():
        note(f"{data} is not there (examples/data/brain.py builds it): ViT-S/14 is timed alone")
        return ()
    note(f"tuning {VIT_RECIPE.name}: an hour on two cores")
    from stagekit.tune.recipe_file import read_recipe
    from stagekit.tune.tune import tune

    tune(read_recipe(VIT_RECIPE, data=data), task, resume=task.with_suffix(".tuning").is_dir())
    return (task,)


def _examples(*names: str) -> tuple[Path, ...]:
    return tuple(ROOT / "examples" / f"{name}.task" for name in names)


def measure(
    case: Case,
    emulated: bool,
    profiles: Sequence[str],
    data: Path,
    parts: Path,
    place: Path,
    quick: bool,
    until: float,
) -> None:
    """The cells of a case that run here, or those that are emulated, as far as time allows; what is left is said.

    Args:
        profiles: these alone; all without.
    """
    stages, tasks, given = prepare(case, data, parts)
    options = Options(
        scenarios=("SingleStream", "Offline"),
        seconds=1.0 if case.large else 2.5,
        queries=12 if case.large else 64,
        rounds=5 if case.large else 15,
        uncut=True,
        accuracy=bool(case.tasks),
        bundles=(stages, *tasks),
    )
    options = replace(options, seconds=0.1, queries=2, rounds=2) if quick else options
    every, out = cells([t.stem for t in tasks], True, case.profiles, alone=False)
    wanted = [cell for cell in every if (cell.profile.name not in CPU) == emulated]
    wanted = [cell for cell in wanted if not profiles or cell.profile.name in profiles]
    even = {cell.profile.name in EQUALISED for cell in wanted if cell.needs_record}
    records = {which: recorded(case, stages, tasks, data, parts, which) for which in even}
    bench = Bench((stages, *tasks), given, options, place / "cells", None, reference(every))
    if not quick:
        for cell in wanted:
            forget_noisy(bench.file(cell))
    begun = time.monotonic()

    def one(cell: Cell) -> None:
        replace(bench, calibration=records.get(cell.profile.name in EQUALISED)).measure(cell)

    for outcome in run_matrix(wanted, bench.file, one, max(0.0, until - begun), progress=note):
        note(f"{case.model} {outcome.cell}: {outcome.what} {outcome.why}".strip())
    for name, why in out.items():
        note(f"{case.model} {name}: left out, {why}")
    note(f"{case.model}: {time.monotonic() - begun:.0f} s")


def reported(case: Case, place: Path) -> list[Result]:
    """All results of a case that are there, in the order of its profiles; also as a report for a browser."""
    files = [place / "cells" / f"{name}.json" for name in case.profiles]
    found = [results.read(path) for path in files if path.is_file()]
    if found:
        write_report([(result, place / "cells") for result in found], place)
    return found


def forget_noisy(path: Path) -> None:
    """Removes results that were measured beside other work; of an emulated device no time is measured."""
    if path.is_file():
        result = results.read(path)
        if result.noise and result.noise.noisy and not result.deployment.emulates:
            path.unlink()


def prepare(case: Case, data: Path, parts: Path) -> tuple[Path, tuple[Path, ...], tuple[str, ...]]:
    """Stages, tasks and pictures; made where they are not there yet."""
    stages = parts / f"{case.model}.stages"
    if not (stages / "manifest.json").is_file():
        note(f"partitioning {case.model}")
        partition_backbone(case.model, stages, weights=find_packaged_weights(case.model), size=FRAME)
    if case.tasks:
        given = (data_of(task, data) for task in case.tasks)
        return stages, case.tasks, tuple(f"{name}={folder}" for name, folder in given)
    made = parts / f"{case.model}.task"
    if not (made / "manifest.json").is_file():
        untrained_task(stages, made, "untrained", 3, 0)
    return stages, (made,), (str(PICTURES),)


def data_of(task: Path, data: Path) -> tuple[str, Path]:
    """A task's name, and the folder of the data that it was tuned and scored on."""
    made = read_manifest(task, TaskManifest)
    folder = data / made.metrics[0].data
    if not folder.is_dir():
        raise click.UsageError(f"{folder} is not there; `make data` builds the data of Lite0's tasks")
    return made.name, folder


def recorded(case: Case, stages: Path, tasks: Sequence[Path], data: Path, parts: Path, even: bool) -> Path:
    """A calibration record, of training pictures; with weights equalised or as they are."""
    record = parts / f"{case.model}{'-even' if even else ''}.calib"
    if not (record / "manifest.json").is_file():
        folders = [data_of(task, data)[1] for task in tasks] if case.tasks else [PICTURES]
        for number, (folder, task) in enumerate(zip(folders, tasks, strict=True)):
            note(f"calibrating {case.model} on {folder.name}{', equalised' if even else ''}")
            method = "minmax" if even and not number else None
            calibrate(
                stages,
                [task],
                data=folder,
                output=record,
                method=method,
                limit=48,
                equalise=even and not number,
                extending=number > 0,
            )
    return record


def row(case: Case, r: Result) -> dict[str, Any]:
    """What is kept of a deployment's results."""
    foretold, ran, offline = r.scenario(NAME), latency_scenario(r), r.scenario("Offline")
    emulated = r.deployment.emulates
    return {
        "commit": r.commit,
        "where": measured_on(r.device.cores, r.device.cpu, r.device.flags, r.started[:10]),
        "model": case.title,
        "deployment": r.deployment.name,
        "target": r.deployment.target,
        "precision": r.deployment.precision,
        "device": r.device_name if emulated else None,
        "tasks": list(r.deployment.tasks),
        "trained": bool(r.accuracy),
        "p50_ms": None if emulated else _figure(latency(r), 1e3),
        "images_per_second": None if emulated or offline is None else _figure(offline.figures["samples_per_second"]),
        "stages_ms": _figure(foretold.figures.get(STAGES), 1e3) if foretold else None,
        "emulation_ms": _figure(ran.figures["p50"], 1e3) if emulated and ran else None,
        "miou": {a.task: round(a.miou.value, 7) for a in r.accuracy},
        "images": {a.task: a.images for a in r.accuracy},
        "agreement": {a.task: round(a.agreement.value, 6) for a in r.accuracy if a.agreement},
        "over_uncut": {b.task: _figure(b.ratio) for b in r.baseline},
        "engines_mb": round(r.memory.engines / 1e6, 2) if r.memory else None,
        "memory_mb": round(max(0, r.memory.opened - r.memory.before) / 1e6, 1) if r.memory else None,
        "scaling": [
            {
                "tasks": s.tasks,
                "together_ms": _figure(s.shared_seconds, 1e3),
                "apart_ms": _figure(s.separate_seconds, 1e3),
            }
            for s in r.scaling
            if s.shared_seconds.kind == "measured"
        ],
        "noisy": list(r.noise.reasons) if r.noise else [],
        "share": round(min(r.noise.before.share, r.noise.after.share), 3) if r.noise else None,
        "status": r.status,
    }


def _figure(figure: Figure | None, scale: float = 1.0) -> dict[str, Any] | None:
    if figure is None:
        return None
    shown = {k: round(scale * v, 4) for k in ("value", "low", "high") if (v := getattr(figure, k)) is not None}
    return {**shown, "kind": figure.kind}


def note(text: str) -> None:
    click.echo(f"  {text}", err=True)


if __name__ == "__main__":
    main()
