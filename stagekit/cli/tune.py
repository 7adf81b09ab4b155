"""``stagekit tune``."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from stagekit.cli.console import PATH, emit, json_option, megabytes, note, stoppable, table

if TYPE_CHECKING:
    from stagekit.bundle.manifest import TaskManifest
    from stagekit.target import Progress
    from stagekit.tune.loop import Status, Watch


@click.command()
@click.argument("recipe", type=PATH)
@click.option("-o", "--output", type=PATH, help="Where the .task folder goes; by default NAME.task here.")
@click.option("--data", type=PATH, help="The data set's folder, instead of the recipe's.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint beside the output.")
@click.option("--through", type=PATH, help="A .calib record: tune for the frozen stages in its simulated integers.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override the recipe.")
@json_option
def command(
    recipe: Path,
    output: Path | None,
    data: Path | None,
    resume: bool,
    through: Path | None,
    overrides: tuple[str, ...],
    as_json: bool,
) -> None:
    """Learn the task that RECIPE describes on a frozen backbone.

    Checkpoints and log.csv go to NAME.tuning beside the output. Ctrl-C saves; --resume goes on from there.

    \b
    Examples:
      stagekit tune examples/landcover.toml -o landcover.task
      stagekit tune examples/landcover.toml -o landcover.task --resume
      stagekit tune examples/landcover.toml -o head.task \\
        --set train.iterations=50 --set method.kind=head
      stagekit tune examples/sea.toml --through land.calib -o sea.task
    """
    from stagekit.tune.recipe_file import read_recipe
    from stagekit.tune.tune import tune

    record = () if through is None else (f"through.record={json.dumps(str(through.absolute()))}",)
    chosen = read_recipe(recipe, (*overrides, *record), data)
    folder = output or Path(f"{chosen.task.name}.task")
    going_on = f"to go on: {_resuming(recipe, folder, data, through, overrides)}"
    with stoppable(lambda: going_on), _display() as (tell, watch):
        manifest = tune(chosen, folder, resume=resume, progress=tell, watch=watch)
    emit({"path": str(folder), **manifest.model_dump(mode="json", by_alias=True)}, describe(manifest, folder), as_json)


def _resuming(recipe: Path, folder: Path, data: Path | None, through: Path | None, overrides: Sequence[str]) -> str:
    """The command that goes on with a run: it must describe the same one."""
    named = (("--data", data), ("--through", through), *(("--set", override) for override in overrides))
    options = [part for name, value in named if value is not None for part in (name, str(value))]
    return shlex.join(["stagekit", "tune", str(recipe), "-o", str(folder), *options, "--resume"])


def describe(manifest: TaskManifest, folder: Path) -> str:
    """A tuned task for people: its size and what it scored."""
    size = sum(file.stat().st_size for file in folder.iterdir())
    adapters = sum(entry.macs for entry in (*manifest.prompts, manifest.head))
    lines = [f"{folder}: {len(manifest.classes)} classes, {megabytes(size)}, {adapters / 1e6:.1f} MMAC a frame"]
    for metric in manifest.metrics:
        lines.append(f"{metric.name} on {metric.split} ({metric.images} images): {100 * metric.value:.2f}")
    scored = next((m for m in manifest.metrics if m.name == "miou"), None)
    if scored is not None:
        rows = [(name, "-" if value is None else 100 * value) for name, value in scored.per_class.items()]
        lines.append(table([f"class ({scored.split})", "IoU"], rows))
    return "\n".join(lines)


@contextmanager
def _display() -> Iterator[tuple[Progress, Watch]]:
    """What is going on, and a bar with loss, mIoU and time left; lines where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield _changes(), _line
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[facts]}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        bar = shown.add_task("", total=None, facts="")

        def watch(status: Status) -> None:
            shown.update(bar, description="tuning", total=status.steps, completed=status.step, facts=_facts(status))

        yield lambda text: shown.update(bar, description=text, facts=""), watch


def _changes() -> Progress:
    """Prints a phase once, not each of its counts."""
    last = ""

    def tell(text: str) -> None:
        nonlocal last
        phase = text.partition(":")[0]
        if phase != last:
            note(f"  {phase}")
        last = phase

    return tell


def _line(status: Status) -> None:
    if status.scored or status.step in (1, status.steps):
        note(f"  step {status.step} of {status.steps}: {_facts(status)}")


def _facts(status: Status) -> str:
    miou = "" if status.miou is None else f", mIoU {100 * status.miou:.2f}"
    minutes, seconds = divmod(round(status.seconds_left), 60)
    return f"loss {status.loss:.3f}{miou}, {minutes}:{seconds:02d} left"
