"""How long the command line takes to answer: whole processes, medians of alternating runs.

Rows: command, seconds (median), over bare Python's start-up (ratio).
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import click

from stagekit.cli import VERBS

STAGEKIT = str(Path(sys.executable).parent / "stagekit")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "stagekit --help": [STAGEKIT, "--help"],
    **{f"stagekit {verb} --help": [STAGEKIT, verb, "--help"] for verb in VERBS},
    "stagekit targets": [STAGEKIT, "targets"],
}


@click.command()
@click.option("--repeats", default=10, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(repeats: int, path: Path | None) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(repeats + 1):
        for name, command in COMMANDS.items():
            begun = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            times[name].append(time.perf_counter() - begun)
    bare = median(times["python -c pass"][1:])
    rows = [
        {"command": name, "seconds": round(median(t[1:]), 4), "ratio": round(median(t[1:]) / bare, 2)}
        for name, t in times.items()
    ]
    text = json.dumps({"rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
