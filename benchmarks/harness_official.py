"""A run of official length: does LoadGen call it valid, and do our percentiles agree with its summary?

SingleStream for ten minutes, on a machine that is otherwise quiet. Beside what LoadGen says: machine, deployment,
queries, noisy. Rows: percentile, ours_ms, loadgen_ms.

    python benchmarks/harness_official.py lite0.deploy --data pictures/ --json benchmarks/results/harness_official.json
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from stagekit.bench import results

PATH = click.Path(path_type=Path)
OPTIONS = ("--scenario", "SingleStream", "--no-accuracy", "--rounds", "0", "--no-report")
SUMMARY = "{:.2f} percentile latency (ns)"


@click.command()
@click.argument("deployment", type=PATH)
@click.option("--data", required=True)
@click.option("--seconds", type=float, help="Shorter than official, to try this out.")
@click.option("--json", "path", type=PATH, help="Write the result here.")
def main(deployment: Path, data: str, seconds: float | None, path: Path | None) -> None:
    length = ["--official"] if seconds is None else ["--seconds", str(seconds)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "stagekit", "bench", str(deployment), "--data", data, "-o", folder]
        subprocess.run([*command, *OPTIONS, *length], check=True, capture_output=True)
        result = results.read(Path(folder) / f"{deployment.name.removesuffix('.deploy')}.json")
    single = result.scenario("SingleStream")
    assert single is not None
    assert result.noise is not None
    told, made = single.loadgen, result.deployment
    facts = {
        "machine": f"{result.device.cores} cores of {result.device.cpu}",
        "date": result.started[:10],
        "deployment": f"{made.name}, {made.profile}, tasks: {', '.join(made.tasks)}",
        "result": told["Result is"],
        "min_duration": told["Min duration satisfied"],
        "min_queries": told["Min queries satisfied"],
        "early_stopping": told["Early stopping satisfied"],
        "queries": len(single.samples.latency),
        "noisy": list(result.noise.reasons),
        "rows": [
            {
                "percentile": share,
                "ours_ms": round(1e3 * single.figures[f"p{share}"].value, 6),
                "loadgen_ms": round(1e-6 * int(told[SUMMARY.format(share)]), 6),
            }
            for share in (50, 90, 95, 99)
        ],
    }
    text = json.dumps(facts, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
