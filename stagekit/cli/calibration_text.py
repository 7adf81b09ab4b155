"""What ``stagekit calibrate`` and ``inspect`` say about records, audits and analyses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stagekit.cli.console import megabytes, table

if TYPE_CHECKING:
    from stagekit_calib.analysis import Analysis
    from stagekit_calib.audit import Saturation

    from stagekit.quant.record import Calibration

SHOWN = 12
"""Rows of a long table that are printed; ``--json`` has them all."""


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
    stages = {s.name for s in record.stages}
    frozen = sum(record.places[h][0] in stages for h in record.statistics)
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


def describe_audit(record: Calibration, tensors: list[Saturation]) -> str:
    finding = record.audits[-1]
    rows = [(t.stage, t.tensor, 100 * t.share, 100 * t.known_share, t.reach) for t in tensors[:SHOWN]]
    text = table(["stage", "tensor", "saturated %", "in record %", "reach / range"], rows)
    drop = "no labels, so no mIoU" if finding.drop is None else f"int8 costs it {finding.drop:.2f} points of mIoU"
    return f"{text}\n{finding.task.name} on {finding.images} images; {drop}"


def describe_analysis(analysis: Analysis) -> str:
    """An analysis for people."""
    layers = [(d.node, d.operator, d.macs / 1e6, d.decibels) for d in analysis.layers[:SHOWN]]
    tensors = [(t.stage, t.tensor, t.decibels) for t in analysis.tensors[:SHOWN]]
    limit = analysis.limit
    tried = [
        (len(t.keep_float), 100 * t.integer_share, t.drop, "met" if t.drop <= limit else "not met")
        for t in analysis.trials
    ]
    return "\n\n".join(
        [
            table(["most damaging layers", "", "MMAC", "SQNR dB"], layers),
            table(["stage", "roughest tensors", "SQNR dB"], tensors),
            table(["layers in floats", "% of MACs in integers", "drop", f"limit {limit:g}"], tried),
        ]
    )
