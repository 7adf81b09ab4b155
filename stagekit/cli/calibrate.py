"""``stagekit calibrate``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stagekit.cli.console import PATH, emit, json_option, megabytes, note, progress, table
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from stagekit_calib.audit import Saturation
    from stagekit_calib.readers import Images
    from stagekit_calib.sensitivity import LayerDamage, Trial

    from stagekit.data.folder import Folder
    from stagekit.quant.record import Calibration
    from stagekit.quant.scheme import QuantScheme

SHOWN = 12
"""Rows of a long table that are printed; ``--json`` has them all."""


@click.command()
@click.argument("stages", type=PATH)
@click.option("--task", "tasks", type=PATH, multiple=True, help="A .task whose SPMs run too; once for each.")
@click.option("--data", type=PATH, required=True, help="A data set, or a folder of images.")
@click.option("--split", help="Of the data set to calibrate on; train by default.")
@click.option("--limit", type=click.IntRange(1), help="Use this many images at most.")
@click.option("-o", "--output", type=PATH, required=True, help="The record: a .calib folder.")
@click.option("--method", default=None, help="minmax, moving-average, percentile[:99.9], entropy or mse.")
@click.option("--equalise", is_flag=True, help="Even out weights of neighbouring convolutions first.")
@click.option("--extend", is_flag=True, help="Add these images and tasks to the record in --output.")
@click.option("--resume", is_flag=True, help="Go on with an interrupted run over the same images.")
@click.option("--analyze", is_flag=True, help="Rank layers by damage; keep the fewest in floats that meet --max-drop.")
@click.option("--max-drop", type=float, default=0.5, show_default=True, help="Points of mIoU that int8 may cost.")
@click.option("--audit", type=PATH, help="Run this new .task over the record in --output; says what saturates.")
@click.option("--eval-split", default="val", show_default=True, help="Labelled split for --analyze and --audit.")
@click.option("--profile", "profile_name", help="Whose number formats --analyze and --audit use; int8 symmetric else.")
@json_option
def command(
    stages: Path,
    tasks: tuple[Path, ...],
    data: Path,
    split: str | None,
    limit: int | None,
    output: Path,
    method: str | None,
    equalise: bool,
    extend: bool,
    resume: bool,
    analyze: bool,
    max_drop: float,
    audit: Path | None,
    eval_split: str,
    profile_name: str | None,
    as_json: bool,
) -> None:
    """Learn the ranges that int8 needs, by running images through STAGES and the SPMs of the named tasks.

    \b
    Examples:
      stagekit calibrate lite0.stages --task landcover.task --data tiles/ -o lite0.calib
      stagekit calibrate lite0.stages --task sea.task --data coast/ -o lite0.calib --extend
      stagekit calibrate lite0.stages --audit roads.task --data tiles/ -o lite0.calib
      stagekit calibrate lite0.stages --task landcover.task --data tiles/ -o lite0.calib --analyze --max-drop 0.5
    """
    from stagekit_calib.chain import open_chain
    from stagekit_calib.readers import from_path
    from stagekit_calib.verb import calibrate

    from stagekit.quant.record import save
    from stagekit.quant.scheme import QuantScheme, scheme_of
    from stagekit.target import load_profile

    if audit and (tasks or extend or analyze):
        raise UsageError("--audit looks at one new task alone, without --task, --extend or --analyze", where=audit)
    scheme = scheme_of(load_profile(profile_name)) if profile_name else QuantScheme()
    if audit:
        _audit(stages, audit, output, data, from_path(data, split, limit), scheme, eval_split, as_json)
        return
    if analyze and not tasks:
        raise UsageError("--analyze measures tasks", where="--analyze", remedy="name at least one with --task")
    labelled = _labelled(data, eval_split, required=analyze)
    with _bar() as advance:
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
            advance=advance,
        )
    found = None
    if analyze and labelled:
        chain = open_chain(stages, tasks, equalised=record.equalised)
        found = _analyse(record, chain, from_path(data, split, limit), scheme, labelled, max_drop)
        record = found[0]
        save(record, output)
    data_out = {"path": str(output), **facts(record)}
    text = describe(record, output)
    if found is not None:
        data_out |= {"layers": [_row(d) for d in found[1]], "trials": [_row(t) for t in found[2]]}
        text += "\n" + _analysis(found[1], found[2], max_drop)
    emit(data_out, text, as_json)


def facts(record: Calibration) -> dict[str, Any]:
    """A record as JSON data, without its histograms."""
    return {
        "name": record.name,
        "backbone": record.backbone,
        "method": record.method,
        "stages": [s.model_dump() for s in record.stages],
        "tasks": [t.model_dump() for t in record.tasks],
        "data": [d.model_dump() for d in record.data],
        "keep_float": list(record.keep_float),
        "equalised": record.equalised,
        "audits": [a.model_dump() for a in record.audits],
        "tools": dict(record.tools),
        "tensors": [
            {"stage": p[0], "name": p[1], "hash": h, "minimum": s.minimum, "maximum": s.maximum, "frames": s.frames}
            for h, s in record.statistics.items()
            for p in [record.places[h]]
        ],
    }


def describe(record: Calibration, path: Path) -> str:
    """A record for people."""
    size = sum(f.stat().st_size for f in path.iterdir())
    tasks = ", ".join(t.name for t in record.tasks) or "none"
    images = " + ".join(f"{d.images} of {d.source}" for d in record.data)
    frozen = sum(place[0] in {s.name for s in record.stages} for place in record.places.values())
    lines = [
        f"{path}: {frozen} tensors of {len(record.stages)} stages, {len(record.statistics) - frozen} of SPMs and heads,"
        f" {megabytes(size)}",
        f"backbone {record.backbone[:16]}, method {record.method}, tasks: {tasks}, images: {images}",
    ]
    if record.equalised:
        lines.append("weights equalised across layers")
    if record.keep_float:
        lines.append(f"in floats: {', '.join(record.keep_float)}")
    for a in record.audits:
        drop = "" if a.drop is None else f", mIoU drop {a.drop:.2f} points"
        lines.append(f"audit of {a.task.name}: {100 * a.worst:.2f} % of {a.tensor} saturates{drop}")
    rows = []
    for stage in record.stages:
        of_stage = [s for h, s in record.statistics.items() if record.places[h][0] == stage.name]
        if of_stage:
            ends = min(s.minimum for s in of_stage), max(s.maximum for s in of_stage)
            rows.append((stage.name, stage.fingerprint[:12], len(of_stage), *ends))
    return "\n".join([*lines, table(["stage", "fingerprint", "tensors", "smallest", "largest"], rows)])


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
    rows = [_row(t) for t in tensors]
    emit({"path": str(output), "audit": finding.model_dump(), "tensors": rows}, _audited(record, tensors), as_json)


def _audited(record: Calibration, tensors: list[Saturation]) -> str:
    finding = record.audits[-1]
    rows = [(t.stage, t.tensor, 100 * t.share, 100 * t.known_share, t.reach) for t in tensors[:SHOWN]]
    text = table(["stage", "tensor", "saturated %", "in record %", "reach / range"], rows)
    drop = "no labels, so no mIoU" if finding.drop is None else f"int8 costs it {finding.drop:.2f} points of mIoU"
    return f"{text}\n{finding.task.name} on {finding.images} images; {drop}"


def _analyse(
    record: Calibration,
    chain: Any,
    images: Images,
    scheme: QuantScheme,
    labelled: tuple[Folder, str],
    limit: float,
) -> tuple[Calibration, list[LayerDamage], list[Trial]]:
    from stagekit_calib.accuracy import evaluate
    from stagekit_calib.sensitivity import rank_layers, smallest_float_set, with_kept

    from stagekit.quant.stages import quantise_stages

    folder, split = labelled
    stems = folder.stems(split)
    with progress() as tell:
        tell("mIoU in floats")
        expected = evaluate(chain, folder, stems)

        def drop_of(kept: tuple[str, ...]) -> float:
            integers = chain.quantised(quantise_stages(chain.stages, with_kept(record, kept), scheme))
            return max(100 * (expected[t] - score) for t, score in evaluate(integers, folder, stems).items())

        ranked = rank_layers(chain, record, scheme, images, tell=tell)
        kept, trials = smallest_float_set(ranked, drop_of, limit, tell)
    return with_kept(record, kept), ranked, trials


def _analysis(ranked: list[LayerDamage], trials: list[Trial], limit: float) -> str:
    rows = [(d.node, d.operator, d.macs / 1e6, d.decibels) for d in ranked[:SHOWN]]
    tried = [(len(t.keep_float), t.drop, "met" if t.drop <= limit else "not met") for t in trials]
    layers = table(["most damaging layers", "", "MMAC", "SQNR dB"], rows)
    return layers + "\n" + table(["layers in floats", "drop", f"limit {limit:g}"], tried)


def _labelled(data: Path, split: str, required: bool) -> tuple[Folder, str] | None:
    from stagekit.data.folder import Folder

    if (data / "classes.json").is_file():
        folder = Folder.open(data)
        return (folder, split) if required or split in folder.splits else None
    if required:
        raise UsageError(
            "this needs labels, and --data is a plain folder of images",
            where=data,
            remedy="give a data set: images/, masks/, classes.json and val.txt",
        )
    return None


def _row(item: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(item)


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
