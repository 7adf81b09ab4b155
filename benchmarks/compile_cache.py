"""How long a second compilation takes: whole processes, contents rehashed, everything from the store.

Rows: model, seconds (median), first_seconds, sha256sum_seconds (of the bundle's files), ratio to it.

    python benchmarks/compile_cache.py --model resnet50 --model vit_l16 --json out.json
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import click

from stagekit.cpu import instruction_sets


@click.command()
@click.option(
    "--model", "models", multiple=True, default=["efficientnet_lite0", "resnet50", "vit_l16"], show_default=True
)
@click.option("--target", default="onnxruntime", show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(models: tuple[str, ...], target: str, repeats: int, path: Path | None) -> None:
    rows = [measure(model, target, repeats) for model in models]
    data = {"device": instruction_sets(), "rows": rows}
    text = json.dumps(data, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def measure(model: str, target: str, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        stages = Path(folder) / "model.stages"
        environment = {**os.environ, "STAGEKIT_STORE": f"{folder}/store"}
        command = [sys.executable, "-m", "stagekit"]
        run([*command, "partition", model, "-o", str(stages)], environment)
        compile_command = [*command, "compile", str(stages), "--target", target]
        first = run(compile_command, environment)
        again, hashing = [], []
        for _ in range(repeats):
            again.append(run(compile_command, environment))
            hashing.append(run(["sha256sum", *map(str, sorted(stages.iterdir()))], environment))
        return {
            "model": model,
            "target": target,
            "bundle_bytes": sum(f.stat().st_size for f in stages.iterdir()),
            "first_seconds": round(first, 3),
            "seconds": round(median(again), 3),
            "sha256sum_seconds": round(median(hashing), 3),
            "ratio": round(median(a / h for a, h in zip(again, hashing, strict=True)), 2),
        }


def run(command: list[str], environment: dict[str, str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
