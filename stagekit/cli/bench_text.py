"""Results of benchmarks as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stagekit.cli.console import table

if TYPE_CHECKING:
    from stagekit.bench.report.cells import Table
    from stagekit.bench.results import Result

SHOWN = ("Accuracy", "Stages against the uncut model")


def summaries(found: Sequence[Result]) -> list[str]:
    """What fits a terminal: deployments, accuracy, the baseline."""
    from stagekit.bench.report.tables import summary, tables

    if not found:
        return []
    return [text(t) + "\n" for t in (summary(found), *(t for t in tables(found) if t.title in SHOWN))]


def text(shown: Table) -> str:
    """A table without its title and note."""
    return table(shown.headings, [[cell.text for cell in row] for row in shown.rows])
