"""Peak resident memory of ``run`` beside the uncut model in the same runtime, in processes of their own.

Rows: model, target, staged_mb, uncut_mb, difference_mb.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

STAGED = """
import resource, sys
import numpy as np
from stagekit import targets
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.store import load_entry
from stagekit.target import HostBuffer
from pathlib import Path
folder = Path(sys.argv[1])
manifest = read_manifest(folder, DeployManifest)
target = targets.get(manifest.target)
profile = targets.parse_profile(manifest.profile, "p", "here")
lanes = [target.load(load_entry(folder / "engines" / s.engine, s.engine), profile).lane() for s in manifest.stages]
spec = manifest.frame.spec.bind(batch=1)
for _ in range(3):
    values = (HostBuffer(spec, np.zeros(spec.concrete(), spec.numpy_dtype)),)
    for lane in lanes:
        values = lane.submit(values, 1).wait()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""

UNCUT = {
    "onnxruntime": """
import resource, sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
given = session.get_inputs()[0]
frame = np.zeros([d if isinstance(d, int) else 1 for d in given.shape], np.uint8)
last = session.get_outputs()[-1].name
for _ in range(3):
    session.run([last], {given.name: frame})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""",
    "openvino": """
import resource, sys
import numpy as np, openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
shape = [1, *[d.get_length() for d in list(model.input(0).partial_shape)[1:]]]
model.reshape(shape)
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"})
request = compiled.create_infer_request()
for _ in range(3):
    request.infer([np.zeros(shape, np.uint8)])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
""",
}


@click.command()
@click.option("--model", "models", multiple=True, default=["resnet50", "vit_s14"], show_default=True)
@click.option("--target", "targets", multiple=True, default=["onnxruntime", "openvino"], show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(models: tuple[str, ...], targets: tuple[str, ...], path: Path | None) -> None:
    rows = [row for model in models for row in measure(model, targets)]
    text = json.dumps({"rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def measure(model: str, targets: tuple[str, ...]) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        stages = Path(folder) / "model.stages"
        environment = {**os.environ, "STAGEKIT_STORE": f"{folder}/store"}
        stagekit = [sys.executable, "-m", "stagekit"]
        subprocess.run([*stagekit, "partition", model, "-o", str(stages)], check=True, capture_output=True)
        whole = last_boundary_only(stages)
        rows = []
        for target in targets:
            deployment = f"{folder}/{target}.deploy"
            command = [*stagekit, "compile", str(stages), "--target", target, "-o", deployment]
            subprocess.run(command, env=environment, check=True, capture_output=True)
            staged, uncut = peak(STAGED, deployment), peak(UNCUT[target], str(whole))
            rows.append(
                {
                    "model": model,
                    "target": target,
                    "staged_mb": round(staged, 1),
                    "uncut_mb": round(uncut, 1),
                    "difference_mb": round(staged - uncut, 1),
                }
            )
        return rows


def last_boundary_only(stages: Path) -> Path:
    """The uncut model with its last boundary as the only output, beside the bundle's weights."""
    import onnx

    model = onnx.load(stages / "uncut.onnx", load_external_data=False)
    del model.graph.output[:-1]
    path = stages / "last.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def peak(program: str, argument: str) -> float:
    """Peak resident megabytes of a fresh process."""
    done = subprocess.run([sys.executable, "-c", program, argument], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) / 1024


if __name__ == "__main__":
    main()
