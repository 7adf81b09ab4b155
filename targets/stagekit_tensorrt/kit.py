"""A kit for people who build elsewhere: typed ONNX files, build scripts, golden inputs and outputs.

::

    NAME.onnx                exactly what the builder is given
    NAME.request.json        the build configuration, for the builder
    NAME.golden.npz          inputs and the outputs that ONNX Runtime makes of them, ``in:<name>`` and ``out:<name>``
    kit.json                 the profile, and of each graph what its engine's key needs
    builder/                 builds with TensorRT's Python API; needs nothing of stagekit
    build_with_trtexec.sh    builds with NVIDIA's command-line tool

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

from stagekit.build.kit import WantedEngine
from stagekit.target import Profile, Progress
from stagekit_tensorrt import child, reference
from stagekit_tensorrt.lint import refuse
from stagekit_tensorrt.typed import plan

SCHEMA = 1
MANIFEST = "kit.json"


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
    script = folder / "build_with_trtexec.sh"
    script.write_text("\n".join([SCRIPT_HEAD, *commands, ""]), encoding="utf-8")
    script.chmod(0o755)
    (folder / "README.md").write_text(README, encoding="utf-8")


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
    """The command that builds one graph as the builder does (TensorRT's trtexec or RTX's tensorrt_rtx).

    https://docs.nvidia.com/deeplearning/tensorrt/latest/reference/command-line-programs.html
    """
    words = [f"--onnx={name}.onnx", f"--saveEngine={name}.plan", f"--profilingVerbosity={config['verbosity']}"]
    for index, option in enumerate(("minShapes", "optShapes", "maxShapes")):
        shapes = ",".join(f"{k}:{'x'.join(map(str, v[index]))}" for k, v in config["shapes"].items())
        words += [f"--{option}={shapes}"] if shapes else []
    if config["builder"] != "tensorrt-rtx":
        # TensorRT 11 types strongly anyway and takes the flag for old times' sake.
        words += ["--stronglyTyped", f"--builderOptimizationLevel={config['optimization_level']}"]
        words += [f"--hardwareCompatibilityLevel={LEVELS[config['hardware_compatibility']]}"]
        words += [] if config["tf32"] else ["--noTF32"]
    elif config["compute_capabilities"]:
        words.append(f"--computeCapabilities={','.join(map(str, config['compute_capabilities']))}")
    words += ["--versionCompatible"] if config["version_compatible"] else []
    words += [f"--memPoolSize=workspace:{config['workspace_mib']}M"] if config["workspace_mib"] else []
    return f'"$TRTEXEC" {shlex.join(words)} --skipInference 2>&1 | tee {shlex.quote(name)}.log'


LEVELS = {"none": "none", "ampere_plus": "ampere+", "same_compute_capability": "sameComputeCapability"}

SCRIPT_HEAD = """#!/usr/bin/env bash
# Builds every graph of this kit. TRTEXEC names the tool: trtexec (the default), or tensorrt_rtx for TensorRT-RTX.
set -euo pipefail
cd "$(dirname "$0")"
TRTEXEC="${TRTEXEC:-trtexec}"
"""

README = """# Engines to build

1. Copy this folder to the machine with the GPU and TensorRT.
2. There: `python -m builder .` (Python bindings), or `./build_with_trtexec.sh`.
3. Where stagekit and the store are: `python -m stagekit_tensorrt.import_kit .`
   It checks each plan against its record, runs it on the golden inputs where a GPU is, and stores it under the key
   that `stagekit compile` looks for.
"""
