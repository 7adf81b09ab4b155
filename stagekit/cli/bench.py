"""``stagekit bench``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from stagekit.bench import results
from stagekit.bench.accuracy import Labels
from stagekit.bench.loadgen import SCENARIOS
from stagekit.bench.measure import Options, measure
from stagekit.bench.report import write_report
from stagekit.bench.report.tables import Table, summary, tables
from stagekit.bench.results import Result
from stagekit.cli.console import PATH, emit, json_option, note, progress, table
from stagekit.errors import StagekitError, UsageError


@click.command()
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="DEPLOYMENT...")
@click.option("--data", multiple=True, required=True, help="Pictures: PATH, or TASK=PATH for a task's labelled ones.")
@click.option("-o", "--output", type=PATH, default=Path("report"), show_default=True, help="Folder for the report.")
@click.option("--task", "tasks", multiple=True, help="A task's name; once for each. All by default.")
@click.option("--split", help="Of labelled pictures; test, else val, by default.")
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice(SCENARIOS), help="All by default.")
@click.option("--seconds", default=5.0, show_default=True, help="The least a scenario lasts.")
@click.option("--queries", default=100, show_default=True, help="The least a scenario asks.")
@click.option("--official", is_flag=True, help="Ten minutes a scenario, and LoadGen's verdict decides.")
@click.option("--slo", type=float, help="Milliseconds; Server finds the highest rate with p99 within them.")
@click.option("--no-reuse", is_flag=True, help="Each task computes its own stages, as separate models would.")
@click.option("--closed-loop", "callers", type=int, help="Instead of LoadGen: so many callers, each asking again.")
@click.option("--mix", type=PATH, help="TOML: which tasks in which shares.")
@click.option("--arrivals", type=PATH, help="CSV: seconds,tasks[,image], replayed as recorded.")
@click.option("--baseline", type=click.Choice(["uncut"]), help="Also each task as one graph; needs --bundle.")
@click.option("--bundle", "bundles", multiple=True, type=PATH, help="The .stages and .task that were compiled.")
@click.option("--no-accuracy", is_flag=True, help="Time alone.")
@click.option("--rounds", default=30, show_default=True, help="Of the baseline and of scaling.")
@click.option("--matrix", is_flag=True, help="PATHS are .stages and .task: every target and profile there is.")
@click.option("--budget", type=float, help="Minutes for the matrix.")
@click.option("--calibration", type=PATH, help="For the matrix's int8 profiles.")
@json_option
def command(
    paths: tuple[Path, ...],
    data: tuple[str, ...],
    output: Path,
    matrix: bool,
    budget: float | None,
    calibration: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Measure speed and accuracy of DEPLOYMENTs and write a report.

    The first deployment is what the others' labels are compared with. Results are saved after every step;
    what fails is noted in them and the rest goes on.

    \b
    Examples:
      stagekit bench lite0.deploy other.deploy --data val/ -o report/
      stagekit bench lite0.deploy --data val/ --baseline uncut --bundle lite0.stages --bundle sea.task
      stagekit bench --matrix lite0.stages sea.task --data val/ --budget 30 -o report/
    """
    options = _options(**given | ({"bundles": paths} if matrix else {}))
    told: list[dict[str, str]] = []
    with progress() as tell:
        if matrix:
            made, told = _matrix(paths, data, options, output, calibration, budget, tell)
        else:
            made = _each(paths, data, options, output, tell)
        written = write_report(made, output) if made else []
    found = [result for result, _ in made]
    for result in found:
        for problem in result.problems:
            note(f"warning: {result.deployment.name}: {problem}")
        if result.noise and result.noise.noisy:
            note(f"warning: {result.deployment.name}: noisy: {'; '.join(result.noise.reasons)}")
    lines = [*map(_text, _shown(found)), *(f"{t['cell']}: {t['what']} {t['why']}".strip() for t in told)]
    lines += [f"report in {written[0]}"] if written else []
    facts = {
        "rows": rows(found),
        "results": [str(root / f"{r.deployment.name}.json") for r, root in made],
        "report": [str(path) for path in written],
        "matrix": told,
    }
    emit(facts, "\n".join(lines), as_json)
    if any(result.status == "partial" for result in found) or not found:
        raise click.exceptions.Exit(1)


def rows(found: Sequence[Result]) -> list[dict[str, Any]]:
    """The figures of each deployment that others rely on."""
    made: list[dict[str, Any]] = []
    for r in found:
        d = r.deployment
        head = {"deployment": d.name, "target": d.target, "profile": d.profile, "precision": d.precision}
        head |= {"device": r.device.accelerator or r.device.cpu, "status": r.status}
        for s in r.scenarios:
            figures = {name: figure.value for name, figure in s.figures.items()}
            made.append({**head, "scenario": s.scenario, "reuse": s.reuse, "valid": s.valid, **figures})
        for a in r.accuracy:
            agreement = a.agreement.value if a.agreement else None
            made.append({**head, "task": a.task, "miou": a.miou.value, "dice": a.dice.value, "agreement": agreement})
        for b in r.baseline:
            ratio = {"ratio": b.ratio.value, "ratio_low": b.ratio.low, "ratio_high": b.ratio.high}
            made.append({**head, "task": b.task, "baseline": "uncut", **ratio})
    return made


def _options(
    scenarios: tuple[Any, ...],
    callers: int | None,
    slo: float | None,
    no_reuse: bool,
    baseline: str | None,
    no_accuracy: bool,
    bundles: tuple[Path, ...],
    **plain: Any,
) -> Options:
    if baseline and not bundles:
        raise UsageError("--baseline uncut needs the .stages and .task that were compiled", where="--bundle")
    if callers is not None and callers < 1:
        raise UsageError(f"expected one caller or more, got {callers}", where="--closed-loop")
    if "Server" in scenarios and slo is None:
        raise UsageError("Server needs an SLO", where="--slo", remedy="give milliseconds, e.g. --slo 50")
    alone = callers is not None or plain["arrivals"] is not None
    return Options(
        scenarios=scenarios or (() if alone else SCENARIOS),
        callers=callers or 0,
        slo=None if slo is None else slo / 1e3,
        reuse=not no_reuse,
        uncut=baseline == "uncut",
        accuracy=not no_accuracy,
        bundles=bundles,
        **plain,
    )


def _each(
    paths: Sequence[Path], data: Sequence[str], options: Options, output: Path, tell: Callable[[str], None]
) -> list[tuple[Result, Path]]:
    """Results of each deployment; one that cannot be opened is noted, unless there is no other."""
    made: list[tuple[Result, Path]] = []
    reference: tuple[str, Labels] | None = None
    for number, path in enumerate(paths):
        name = path.name.removesuffix(".deploy")
        if any(r.deployment.name == name for r, _ in made):
            name = f"{name}-{number + 1}"

        def save(result: Result, name: str = name) -> None:
            deployment = result.deployment.model_copy(update={"name": name})
            results.write(result.model_copy(update={"deployment": deployment}), output / f"{name}.json")

        try:
            _, labels = measure(path, data, options, save, output / f"{name}.files", tell, reference)
        except StagekitError as error:
            if len(paths) == 1:
                raise
            note(f"warning: {path} is left out: {error}")
            continue
        made.append((results.read(output / f"{name}.json"), output))
        reference = reference or (name, labels)
    return made


def _matrix(
    paths: Sequence[Path],
    data: Sequence[str],
    options: Options,
    output: Path,
    calibration: Path | None,
    budget: float | None,
    tell: Callable[[str], None],
) -> tuple[list[tuple[Result, Path]], list[dict[str, str]]]:
    from stagekit.bench.matrix import cells, left_out, run_matrix
    from stagekit.bench.uncut import Bundles

    bundles = Bundles(paths)
    wanted, out = cells(list(bundles.tasks), calibration is not None)
    place = output / "cells"

    def file(cell: Any) -> Path:
        return Path(place / f"{cell.name}.json")

    run = partial(_cell, paths=paths, data=data, options=options, place=place, calibration=calibration)
    outcomes = run_matrix(wanted, file, run, None if budget is None else 60 * budget, progress=tell)
    made = [(results.read(file(cell)), place) for cell in wanted if file(cell).is_file()]
    told = [{"cell": o.cell, "what": o.what, "why": o.why} for o in [*outcomes, *left_out(out)]]
    return made, told


def _cell(
    cell: Any, paths: Sequence[Path], data: Sequence[str], options: Options, place: Path, calibration: Path | None
) -> None:
    """Compiles a profile and measures it in a process of its own."""
    from stagekit.bench.uncut import FLOATING
    from stagekit.build.compile import compile

    deployment = place / "deployments" / cell.profile.name / f"{cell.name}.deploy"
    int8 = calibration if cell.profile.precision == "int8" else None
    chosen = [p for p in paths if not cell.tasks or not p.name.endswith(".task") or p.stem in cell.tasks]
    compile(chosen, profile=cell.profile.name, output=deployment, calibration=int8)
    arguments = ["--seconds", options.seconds, "--queries", options.queries, "--rounds", options.rounds]
    arguments += [x for d in _data_for(cell.tasks, data) for x in ("--data", d)]
    arguments += [x for t in cell.tasks for x in ("--task", t)]
    arguments += [x for s in options.scenarios for x in ("--scenario", s) if s != "Server" or options.slo]
    arguments += [x for p in paths for x in ("--bundle", p)]
    for flag, value in (("--split", options.split), ("--mix", options.mix), ("--arrivals", options.arrivals)):
        arguments += [flag, value] if value else []
    arguments += ["--slo", 1e3 * options.slo] if options.slo else []
    arguments += ["--closed-loop", options.callers] if options.callers else []
    flags = (
        ("--official", options.official),
        ("--no-reuse", not options.reuse),
        ("--no-accuracy", not options.accuracy),
    )
    arguments += [flag for flag, chosen_flag in flags if chosen_flag]
    arguments += ["--baseline", "uncut"] if options.uncut and cell.profile.precision in FLOATING else []
    command = [sys.executable, "-m", "stagekit", "bench", deployment, "-o", place, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise StagekitError(done.stderr.strip()[-500:] or f"it ended with {done.returncode}", where=cell.name)


def _data_for(tasks: Sequence[str], data: Sequence[str]) -> list[str]:
    """What is given for some tasks: without what names another."""
    return [d for d in data if not tasks or "=" not in d or Path(d).exists() or d.partition("=")[0] in tasks]


def _shown(found: Sequence[Result]) -> list[Table]:
    """What fits a terminal: deployments, accuracy, the baseline."""
    chosen = ("Accuracy", "Stages against the uncut model")
    return [summary(found), *(t for t in tables(found) if t.title in chosen)] if found else []


def _text(shown: Table) -> str:
    return f"{table(shown.headings, [[cell.text for cell in row] for row in shown.rows])}\n"
