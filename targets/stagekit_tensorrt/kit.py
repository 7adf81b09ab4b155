"""A kit for people who build elsewhere: typed ONNX files, build scripts, golden inputs and outputs.

::

    NAME.onnx                exactly what the builder is given
    NAME.request.json        the build configuration, for the builder
    NAME.golden.npz          inputs and the outputs that ONNX Runtime makes of them, ``in:<name>`` and ``out:<name>``
    kit.json                 the profile, and of each graph what its engine's key needs
    builder/                 builds with TensorRT's Python API; needs nothing of stagekit
    build_with_trtexec.sh    builds with TensorRT's command-line tool; not for RTX

``python -m stagekit_tensorrt.import_kit KIT`` then checks the built plans and puts them into the store.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.build.engines import WantedEngine
from stagekit.target import Profile, Progress
from stagekit_tensorrt import child, reference
from stagekit_tensorrt.config import BUILDERS
from stagekit_tensorrt.lint import refuse
from stagekit_tensorrt.typed import plan

SCHEMA = 1
MANIFEST = "kit.json"
SCRIPT = "build_with_trtexec.sh"


def write_kit(folder: Path, wanted: Sequence[WantedEngine], profile: Profile, progress: Progress) -> None:
    """Writes a kit into a folder.

    Raises:
        CompileError: TensorRT could not build one of them.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    commands: list[str] = []
    for engine in wanted:
        progress(f"writing {engine.name}")
        name = engine.name.replace("/", "-")
        entries.append({"name": name, "graph": engine.name, **_write(folder, name, engine, profile)})
        request = json.loads((folder / f"{name}.request.json").read_text(encoding="utf-8"))
        commands.append(trtexec_command(name, request["config"]))
    manifest = {"schema": SCHEMA, "profile": profile.to_dict(), "graphs": entries}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    sources = Path(__file__).with_name("builder")
    shutil.copytree(sources, folder / "builder", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    rtx = profile.choice("builder", BUILDERS, "auto") == "tensorrt-rtx"
    if not rtx:
        (folder / SCRIPT).write_text("\n".join([SCRIPT_HEAD, *commands, SCRIPT_TAIL]), encoding="utf-8")
        (folder / SCRIPT).chmod(0o755)
    text = README.format(graphs=len(entries), profile=profile.name, precision=profile.precision)
    (folder / "README.md").write_text(text + (WITH_RTX if rtx else WITH_TENSORRT) + IMPORT, encoding="utf-8")


def _write(folder: Path, name: str, engine: WantedEngine, profile: Profile) -> dict[str, Any]:
    planned = plan(engine.graph, engine.inputs, engine.outputs, profile)
    refuse(planned)
    path = folder / f"{name}.onnx"
    planned.graph.save(path)
    child.write_request(folder, name, planned.config)
    golden: dict[str, Any] = {}
    inputs = reference.sample(planned.graph.inputs, profile.batch[0])
    outputs = reference.run(planned.graph, inputs)
    golden |= {f"in:{k}": _plain(v) for k, v in inputs.items()}
    golden |= {f"out:{k}": v for k, v in outputs.items()}
    np.savez_compressed(folder / f"{name}.golden.npz", **golden)
    return {
        "fingerprint": engine.graph.fingerprint,
        "onnx_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "inputs": [spec.to_dict() for spec in engine.inputs],
        "outputs": [spec.to_dict() for spec in engine.outputs],
        "nodes": dict(sorted(planned.node_counts().items())),
    }


def _plain(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Numpy's files know no bf16; its values are exact in f32."""
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def trtexec_command(name: str, config: dict[str, Any]) -> str:
    """The line of the script that builds one graph with TensorRT's trtexec as the builder does.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html
    """
    words = [name, f"--profilingVerbosity={config['verbosity']}"]
    for index, option in enumerate(("minShapes", "optShapes", "maxShapes")):
        shapes = ",".join(f"{_quoted(k)}:{'x'.join(map(str, v[index]))}" for k, v in config["shapes"].items())
        words += [f"--{option}={shapes}"] if shapes else []
    # TensorRT 11 types strongly anyway and takes the flag for old times' sake.
    words += ["--stronglyTyped", f"--builderOptimizationLevel={config['optimization_level']}"]
    words += [f"--hardwareCompatibilityLevel={LEVELS[config['hardware_compatibility']]}"]
    words += [] if config["tf32"] else ["--noTF32"]
    words += ["--versionCompatible"] if config["version_compatible"] else []
    words += [f"--memPoolSize=workspace:{config['workspace_mib']}M"] if config["workspace_mib"] else []
    return f"build {shlex.join(words)}"


def _quoted(name: str) -> str:
    """trtexec takes what follows a colon for sizes, and a comma for the end of them."""
    return f"'{name}'" if {":", ","} & set(name) else name


LEVELS = {"none": "none", "ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}

SCRIPT_HEAD = """#!/usr/bin/env bash
# Builds every graph of this kit with NVIDIA's trtexec. Each NAME.onnx gives NAME.plan and NAME.log; bring back both.
#
#   ./build_with_trtexec.sh                                    # trtexec is on the PATH
#   TRTEXEC=/usr/src/tensorrt/bin/trtexec ./build_with_trtexec.sh
set -uo pipefail
cd "$(dirname "$0")" || exit
TRTEXEC="${TRTEXEC:-trtexec}"
if [ $# -gt 0 ]; then sed -n '2,/^set/{/^#/p}' "$0"; exit 2; fi
if ! command -v "$TRTEXEC" > /dev/null; then echo "$TRTEXEC is not here; set TRTEXEC to its path" >&2; exit 3; fi
failed=()
build() {
  name="$1"; shift
  "$TRTEXEC" --onnx="$name.onnx" --saveEngine="$name.plan" "$@" --skipInference 2>&1 | tee "$name.log" ||
    failed+=("$name")
}
"""

SCRIPT_TAIL = """
for name in "${failed[@]}"; do echo "FAILED: $name: see $name.log" >&2; done
[ ${#failed[@]} -eq 0 ]
"""

README = """# Engines to build

{graphs} graphs, for stagekit's profile `{profile}` ({precision}). Of each: `NAME.onnx`, its build configuration
`NAME.request.json`, and `NAME.golden.npz`, inputs with the outputs that ONNX Runtime makes of them. Precision is in the
ONNX files: give the builder no flags for it.

"""

WITH_RTX = """1. Copy this folder to a machine with TensorRT-RTX (`pip install tensorrt-rtx`); it needs no GPU.
2. There, in this folder: `python -m builder .` (Python 3.10 or later). `python -m builder --help` says more.
"""

WITH_TENSORRT = """1. Copy this folder to the machine with the GPU and TensorRT 10 or 11.
2. There, in this folder: `python -m builder .` (Python 3.10 or later, and TensorRT's Python bindings), or, without
   Python, `./build_with_trtexec.sh`. A graph that cannot be built is named, and the others are built.
"""

IMPORT = """3. Copy the folder back to where stagekit and its store are, and there:
   `python -m stagekit_tensorrt.import_kit FOLDER`. It checks that each plan is whole and was made from this kit's ONNX
   file, runs it on the golden inputs where the GPU that it is for is, and stores it where `stagekit compile` with
   the same bundles and profile looks on a machine with that GPU and TensorRT.
"""
