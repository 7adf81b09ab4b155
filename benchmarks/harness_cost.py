"""What the benchmark harness itself costs: scenarios over a system that answers at once.

From one query's issue to the next is all that a query costs: LoadGen, Python, our bookkeeping. Rows: scenario,
us_per_query (median over repeats of the median gap), worst_us (of the repeats), share_of_5_ms.

    python benchmarks/harness_cost.py --json benchmarks/results/harness_cost.json
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median

import click
import numpy as np

from stagekit.bench import loadgen
from stagekit.bench.loadgen import Settings
from stagekit.bench.run import Run, closed_loop
from stagekit.bench.system import NullSystem

MODEL = 5e-3
"""Seconds of the model that the cost is set against."""


@click.command()
@click.option("--repeats", default=7, show_default=True)
@click.option("--seconds", default=0.5, show_default=True, help="Of a run.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(repeats: int, seconds: float, path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ways: dict[str, Callable[[], Run]] = {
            "SingleStream": lambda: loadgen.run(NullSystem(), Settings("SingleStream", seconds, 1000), folder),
            "Offline": lambda: loadgen.run(NullSystem(), Settings("Offline", seconds, 1, rate=20_000.0), folder),
            "ClosedLoop": lambda: closed_loop(NullSystem(), 1, seconds, least=1000),
        }
        costs = {what: [cost(way()) for _ in range(repeats)] for what, way in ways.items()}
    rows = [
        {
            "scenario": what,
            "us_per_query": round(1e6 * median(found), 2),
            "worst_us": round(1e6 * max(found), 2),
            "share_of_5_ms": round(median(found) / MODEL, 5),
        }
        for what, found in costs.items()
    ]
    text = json.dumps({"rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def cost(run: Run) -> float:
    """Seconds between two queries; of Offline, where all are issued at once, between two answers."""
    issued = np.array([q.issued for q in run.answered])
    times = issued if np.ptp(issued) else np.sort([q.ended for q in run.answered])
    return float(np.median(np.diff(times)))


if __name__ == "__main__":
    main()
