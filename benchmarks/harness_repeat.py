"""Are two runs alike, and is a third one beside busy neighbours flagged? On a machine that is otherwise quiet.

Each run is ``stagekit bench`` in a process of its own. Rows: run (first, second, beside_hogs), p50_ms, noisy, reasons;
difference: between the first two medians, as a share of the first.

    python benchmarks/harness_repeat.py lite0.deploy --data pictures/ --json benchmarks/results/harness_repeat.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from stagekit.bench import results
from stagekit.cpu import usable_cores

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("deployment", type=PATH)
@click.option("--data", required=True)
@click.option("--seconds", default=10.0, show_default=True)
@click.option("--json", "path", type=PATH, help="Write the rows here.")
def main(deployment: Path, data: str, seconds: float, path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = [run(deployment, data, seconds, Path(name) / what, what) for what in ("first", "second")]
        with hogs(usable_cores()):
            rows.append(run(deployment, data, seconds, Path(name) / "third", "beside_hogs"))
    first, second = (row["p50_ms"] for row in rows[:2])
    text = json.dumps({"difference": round(abs(second - first) / first, 4), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def run(deployment: Path, data: str, seconds: float, folder: Path, what: str) -> dict[str, Any]:
    options = ["--scenario", "SingleStream", "--seconds", str(seconds), "--no-accuracy", "--rounds", "0"]
    command = [sys.executable, "-m", "stagekit", "bench", str(deployment), "--data", data, "-o", str(folder), *options]
    subprocess.run(command, check=True, capture_output=True)
    result = results.read(folder / f"{deployment.name.removesuffix('.deploy')}.json")
    single = result.scenario("SingleStream")
    assert single is not None
    assert result.noise is not None
    p50 = round(1e3 * single.figures["p50"].value, 4)
    return {"run": what, "p50_ms": p50, "noisy": result.noise.noisy, "reasons": list(result.noise.reasons)}


@contextmanager
def hogs(count: int) -> Iterator[None]:
    """Processes that each keep a core busy."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
