"""The same tables as Markdown, and figures as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from stagekit.bench.compare import warnings
from stagekit.bench.report.cells import Cell
from stagekit.bench.report.tables import tables
from stagekit.bench.results import Figure, Result
from stagekit.whole import write_whole


def markdown(results: Sequence[Result]) -> str:
    """All tables; figures that were not measured are marked."""
    parts = [f"> **Note:** {told}\n" for told in warnings(results)]
    for table in tables(results):
        lines = [f"## {table.title}\n"]
        lines += [f"{table.note}\n"] if table.note else []
        lines.append(f"| {' | '.join(table.headings)} |")
        lines.append("| " + " | ".join("---" for _ in table.headings) + " |")
        lines += [f"| {' | '.join(map(_marked, row))} |" for row in table.rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def write_csv(results: Sequence[Result], path: Path) -> None:
    """One figure a row: deployment, device, scenario or task, name, value, unit, interval, kind."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(
        ("deployment", "target", "precision", "device", "of", "figure", "value", "unit", "low", "high", "kind")
    )
    for r in results:
        d = r.deployment
        head = (d.name, d.target, d.precision, r.device_name)
        for s in r.scenarios:
            for name, f in s.figures.items():
                writer.writerow((*head, s.scenario if s.reuse else f"{s.scenario} (no reuse)", name, *_row(f)))
        for a in r.accuracy:
            for name in ("miou", "dice", "accuracy", "agreement"):
                figure = getattr(a, name)
                if figure is not None:
                    writer.writerow((*head, a.task, name, *_row(figure)))
        for b in r.baseline:
            writer.writerow((*head, b.task, "staged_over_uncut", *_row(b.ratio)))
    write_whole(path, text.getvalue().encode())


def _row(figure: Figure) -> tuple[object, ...]:
    return figure.value, figure.unit, figure.low, figure.high, figure.kind


def _marked(cell: Cell) -> str:
    shown = cell.text.replace("|", "\\|")
    return shown if cell.kind in ("", "measured") else f"{shown} *({cell.kind})*"
