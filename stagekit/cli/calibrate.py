"""``stagekit calibrate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagekit.cli.console import PATH, Number, emit, json_option, note, progress, stoppable
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from stagekit_calib.readers import Images

    from stagekit.data.folder import Folder
    from stagekit.quant.scheme import QuantScheme


@click.command()
@click.argument("stages", type=PATH)
@click.argument("tasks", nargs=-1, type=PATH)
@click.option("--task", "named", type=PATH, multiple=True, help="A .task too: the same as naming it behind STAGES.")
@click.option("--data", type=PATH, required=True, help="A data set, or a folder of images.")
@click.option("--split", help="Of the data set to calibrate on; train by default.")
@click.option("--limit", type=click.IntRange(1), help="Use this many images at most.")
@click.option("-o", "--output", type=PATH, required=True, help="The record: a .calib folder.")
@click.option(
    "--method",
    default=None,
    help="minmax (default for transformers), moving-average, percentile[:99.9] (default), entropy or mse.",
)
@click.option("--equalise", is_flag=True, help="Even out weights of neighbouring convolutions first.")
@click.option("--extend", is_flag=True, help="Add these images and tasks to the record in --output.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run over the same images.")
@click.option("--analyze", is_flag=True, help="Rank layers by damage; keep the fewest in floats that meet --max-drop.")
@click.option("--keep-float", multiple=True, help="Nodes that stay in floats: stage5/node_Conv_7, stem/*, *fc2*.")
@click.option("--max-drop", type=Number(0), default=0.5, show_default=True, help="Points of mIoU that int8 may cost.")
@click.option("--audit", type=PATH, help="Run this new .task over the record in --output; says what saturates.")
@click.option("--eval-split", default="val", show_default=True, help="Labelled split for --analyze and --audit.")
@click.option("--profile", "profile_name", help="Whose number formats --analyze and --audit use; int8 symmetric else.")
@json_option
def command(
    stages: Path,
    tasks: tuple[Path, ...],
    named: tuple[Path, ...],
    data: Path,
    split: str | None,
    limit: int | None,
    output: Path,
    method: str | None,
    equalise: bool,
    extend: bool,
    resume: bool,
    analyze: bool,
    keep_float: tuple[str, ...],
    max_drop: float,
    audit: Path | None,
    eval_split: str,
    profile_name: str | None,
    as_json: bool,
) -> None:
    """Learn the ranges that int8 needs, by running images through STAGES and the SPMs of TASKS.

    \b
    Examples:
      stagekit calibrate lite0.stages landcover.task --data tiles/ -o lite0.calib
      stagekit calibrate lite0.stages sea.task --data sea/ -o lite0.calib --extend
      stagekit calibrate lite0.stages --audit sea.task --data sea/ -o lite0.calib
      stagekit calibrate lite0.stages landcover.task --data tiles/ \\
        -o lite0.calib --analyze --max-drop 0.5
    """
    from stagekit_calib.analysis import analyse
    from stagekit_calib.readers import from_path
    from stagekit_calib.verb import calibrate, checkpoint_of

    from stagekit.cli.calibration_text import describe, describe_analysis, facts
    from stagekit.quant.record import save
    from stagekit.quant.scheme import QuantScheme, scheme_of
    from stagekit.targets import load_profile

    tasks = (*tasks, *named)
    if audit and (tasks or extend or analyze or keep_float):
        what = "--audit looks at one new task alone, without other tasks, --extend, --analyze or --keep-float"
        raise UsageError(what, where=audit)
    scheme = scheme_of(load_profile(profile_name)) if profile_name else QuantScheme()
    if audit:
        _audit(stages, audit, output, data, from_path(data, split, limit), scheme, eval_split, as_json)
        return
    if analyze and not tasks:
        raise UsageError("--analyze measures tasks", where="--analyze", remedy="name a .task behind the stages")
    labelled = _labelled(data, eval_split, required=analyze)
    resumable = "the same command with --resume goes on from the last checkpoint"
    with stoppable(lambda: resumable if checkpoint_of(output).is_dir() else ""), _bar() as advance:
        record = calibrate(
            stages,
            tasks,
            data=data,
            output=output,
            method=method,
            split=split,
            limit=limit,
            equalise=equalise,
            extending=extend,
            resume=resume,
            keep_float=keep_float,
            advance=advance,
        )
    data_out: dict[str, Any] = {}
    analysed = ""
    if analyze and labelled:
        with progress() as tell:
            found = analyse(stages, tasks, record, from_path(data, split, limit), labelled, scheme, max_drop, tell)
        record = found.record
        save(record, output)
        data_out = {name: [asdict(i) for i in getattr(found, name)] for name in ("layers", "trials")}
        data_out["tensor_damage"] = [asdict(t) for t in found.tensors]
        analysed = "\n\n" + describe_analysis(found)
    emit({"path": str(output), **facts(record), **data_out}, describe(record, output) + analysed, as_json)


def _audit(
    stages: Path,
    task: Path,
    output: Path,
    data: Path,
    images: Images,
    scheme: QuantScheme,
    split: str,
    as_json: bool,
) -> None:
    from stagekit_calib.audit import audit
    from stagekit_calib.chain import open_chain

    from stagekit.cli.calibration_text import describe_audit
    from stagekit.quant.record import load, save

    record = load(output)
    with _bar() as advance:
        record, tensors = audit(
            record,
            open_chain(stages, [task], equalised=record.equalised),
            images,
            scheme,
            _labelled(data, split, required=False),
            advance,
        )
    save(record, output)
    finding = record.audits[-1]
    data_out = {"path": str(output), "audit": finding.model_dump(), "tensors": [asdict(t) for t in tensors]}
    emit(data_out, describe_audit(record, tensors), as_json)


def _labelled(data: Path, split: str, required: bool) -> tuple[Folder, str] | None:
    from stagekit.data.folder import Folder

    if (data / "classes.json").is_file():
        folder = Folder.open(data)
        if required:
            folder.stems(split)  # a split that is not there is told before anything runs
        return (folder, split) if required or split in folder.splits else None
    if required:
        raise UsageError(
            "this needs labels, and --data is a plain folder of images",
            where=data,
            remedy="give a data set: images/, masks/, classes.json and val.txt",
        )
    return None


@contextmanager
def _bar() -> Iterator[Callable[[int, int | None], None]]:
    """Images done, on stderr: a bar on a terminal, a line now and then elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: note(f"  {done} of {total or '?'} images") if done % 25 == 0 else None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        bar = display.add_task("images", total=None)
        yield lambda done, total: display.update(bar, completed=done, total=total)
