"""``stagekit bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagekit.bench.names import SCENARIOS
from stagekit.cli.bench_text import summaries
from stagekit.cli.console import PATH, Number, emit, json_option, note, progress, stoppable
from stagekit.cli.sections import Sectioned
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stagekit.bench.matrix import Outcome
    from stagekit.bench.options import Options
    from stagekit.bench.results import Result


SECTIONS = {
    "What is measured": ("data", "split", "tasks", "reference", "no_accuracy"),
    "How it is asked": ("scenarios", "seconds", "queries", "official", "slo", "callers", "mix", "arrivals", "no_reuse"),
    "Against whole models": ("baseline", "bundles", "rounds"),
    "Every target and profile": ("matrix", "profiles", "calibration", "together", "budget"),
}


@click.command(cls=Sectioned, sections=SECTIONS)
@click.argument("paths", nargs=-1, required=True, type=PATH, metavar="DEPLOYMENT...")
@click.option("--data", multiple=True, required=True, help="Pictures: PATH, or TASK=PATH for a task's labelled ones.")
@click.option("--split", help="Of labelled pictures; test, else val, by default.")
@click.option("--task", "tasks", multiple=True, help="A task's name; once for each. All by default.")
@click.option("--reference", type=PATH, help="Earlier results whose labels are compared with; else the first's.")
@click.option("--no-accuracy", is_flag=True, help="Time alone.")
@click.option("--scenario", "scenarios", multiple=True, type=click.Choice(SCENARIOS), help="All by default.")
@click.option("--seconds", type=Number(0), default=5.0, show_default=True, help="The least of a scenario.")
@click.option("--queries", type=click.IntRange(1), default=100, show_default=True, help="The least a scenario asks.")
@click.option("--official", is_flag=True, help="Ten minutes a scenario, and LoadGen's verdict decides.")
@click.option(
    "--slo",
    type=Number(0, min_open=True),
    help="Milliseconds: the share of queries within, and the highest rate of which Server answers 99 % within.",
)
@click.option(
    "--closed-loop", "callers", type=click.IntRange(1), help="No LoadGen: so many callers, each asking again."
)
@click.option("--mix", type=PATH, help="TOML: which tasks in which shares.")
@click.option("--arrivals", type=PATH, help="No LoadGen: CSV of seconds,tasks[,image], replayed as recorded.")
@click.option("--no-reuse", is_flag=True, help="Each task computes its own stages, as separate models would.")
@click.option("--baseline", type=click.Choice(["uncut"]), help="Also each task as one graph; needs --bundle.")
@click.option("--bundle", "bundles", multiple=True, type=PATH, help="The .stages and .task that were compiled.")
@click.option("--rounds", type=click.IntRange(0), default=30, show_default=True, help="Of the baseline and of scaling.")
@click.option("--matrix", is_flag=True, help="Arguments are .stages and .task, which are compiled for each.")
@click.option("--profile", "profiles", multiple=True, help="These alone; once for each.")
@click.option("--calibration", type=PATH, help="The record for profiles in integers.")
@click.option("--together", is_flag=True, help="All tasks together, and none alone.")
@click.option("--budget", type=Number(0, min_open=True), help="Minutes; run again, it goes on.")
@click.option("-o", "--output", type=PATH, default=Path("report"), show_default=True, help="Folder for the report.")
@click.option("--no-report", is_flag=True, help="Results alone, and no pages.")
@json_option
def command(
    paths: tuple[Path, ...],
    data: tuple[str, ...],
    output: Path,
    reference: Path | None,
    no_report: bool,
    matrix: bool,
    profiles: tuple[str, ...],
    together: bool,
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
      stagekit bench lite0.deploy --data val/ --baseline uncut \\
        --bundle lite0.stages --bundle sea.task
      stagekit bench lite0.deploy --data val/ --scenario Server --slo 50
      stagekit bench --matrix lite0.stages sea.task --data val/ --budget 30
    """
    from stagekit.bench.labels import read_reference
    from stagekit.bench.report import write_report
    from stagekit.bench.several import measure_each

    if not matrix and (profiles or together or calibration or budget is not None):
        raise UsageError("--profile, --together, --calibration and --budget are for --matrix", where="stagekit bench")
    options = _options(**given | ({"bundles": paths} if matrix else {}))
    outcomes: list[Outcome] = []
    place = output / "cells" if matrix else output
    with stoppable(lambda: _left(place, matrix)), progress() as tell:
        if matrix:
            found, outcomes = _matrix(paths, data, options, place, calibration, profiles, together, budget, tell)
        else:
            compared = read_reference(reference) if reference else None
            found = measure_each(paths, data, options, output, tell, note, compared)
        made = [(result, place) for result in found]
        written = write_report(made, output) if made and not no_report else []
    for result in found:
        for problem in result.problems:
            note(f"warning: {result.deployment.name}: {problem}")
        if result.noise and result.noise.noisy:
            note(f"warning: {result.deployment.name}: noisy: {'; '.join(result.noise.reasons)}")
    lines = [*summaries(found), *(": ".join(filter(None, (o.cell, o.what, o.why))) for o in outcomes)]
    lines += [f"report in {written[0]}"] if written else []
    facts = {
        "rows": rows(found),
        "results": [str(root / f"{r.deployment.name}.json") for r, root in made],
        "report": [str(path) for path in written],
        "matrix": [{"cell": o.cell, "what": o.what, "why": o.why} for o in outcomes],
    }
    emit(facts, "\n".join(lines), as_json)
    left_out = any(o.what == "failed" for o in outcomes) if matrix else len(found) < len(paths)
    if left_out or not found or any(result.status == "partial" for result in found):
        raise click.exceptions.Exit(1)


def _left(place: Path, matrix: bool) -> str:
    """What an interrupt leaves behind."""
    if not place.is_dir():
        return ""
    return f"what was measured is in {place}" + ("; the same command goes on" if matrix else "")


def rows(found: Sequence[Result]) -> list[dict[str, Any]]:
    """The figures of each deployment that others rely on."""
    made: list[dict[str, Any]] = []
    for r in found:
        d = r.deployment
        head = {"deployment": d.name, "target": d.target, "profile": d.profile, "precision": d.precision}
        head |= {"device": r.device_name, "status": r.status}
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
    from stagekit.bench.options import Options

    if baseline and not bundles:
        raise UsageError("--baseline uncut needs the .stages and .task that were compiled", where="--bundle")
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


def _matrix(
    paths: Sequence[Path],
    data: Sequence[str],
    options: Options,
    place: Path,
    calibration: Path | None,
    profiles: Sequence[str],
    together: bool,
    budget: float | None,
    tell: Callable[[str], None],
) -> tuple[list[Result], list[Outcome]]:
    from stagekit.bench.cell import Bench
    from stagekit.bench.matrix import cells, kept, left_out, reference, run_matrix
    from stagekit.bench.uncut import Bundles

    if any(not path.name.endswith((".stages", ".task")) for path in paths):
        raise UsageError("the matrix compiles bundles: give one .stages folder and .task folders", where="--matrix")
    tasks = list(Bundles(paths).tasks)
    wanted, out = cells(tasks, calibration is not None, profiles, not together)
    bench = Bench(tuple(paths), tuple(data), options, place, calibration, reference(wanted))
    outcomes = run_matrix(wanted, bench.file, bench.measure, None if budget is None else 60 * budget, progress=tell)
    found = [result for cell in wanted if (result := kept(bench.file(cell))) is not None]
    return found, [*outcomes, *left_out(out)]
