"""``python -m stagekit_tensorrt.import_kit KIT``: checks plans that were built elsewhere and stores them.

Each plan must be there, belong to the kit's ONNX file and, where the GPU and version are that it is for, give the
golden outputs. It is stored under the key that ``stagekit compile`` looks for with the same builder, version and
device, in the store that STAGEKIT_STORE names. Exit code 4: a plan is missing or not the kit's; 5: it computes
something else.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from stagekit.errors import BundleError, EngineError, StagekitError, VerificationFailed
from stagekit.graph import TensorSpec
from stagekit.store import EngineKey, Store
from stagekit.target import EngineBlob, HostBuffer, Profile
from stagekit.targets import parse_profile
from stagekit_tensorrt import sidecar
from stagekit_tensorrt.kit import MANIFEST, SCHEMA
from stagekit_tensorrt.target import TensorRtTarget

TOLERANCES = {"f32": 1e-3, "fp16": 1e-2, "bf16": 3e-2, "int8": 1e-1}
"""Of the largest value, between TensorRT and the golden outputs."""

LABEL_AGREEMENT = 0.99
"""The part of a label map's pixels that must be equal."""


def import_kit(folder: Path, store: Store, progress: Any = print) -> dict[str, str]:
    """Stores every sound plan of a kit; returns the engines' digests by graph.

    Args:
        progress: told of each graph.

    Raises:
        BundleError: no kit, or a plan or its result is missing or belongs to another ONNX file.
        VerificationFailed: a plan does not give the golden outputs.
        EngineError: the runtime here refuses a plan. Of these the first is raised when all others are stored.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(f"expected a kit's manifest: {error.strerror}", where=path) from error
    except ValueError as error:
        raise BundleError(f"expected a kit's manifest: {error}", where=path) from error
    if manifest.get("schema") != SCHEMA:
        raise BundleError(f"expected schema {SCHEMA}, found {manifest.get('schema')!r}", where=path)
    data = {k: v for k, v in manifest["profile"].items() if k != "name"}
    profile = parse_profile(data, manifest["profile"]["name"], str(path))
    target = TensorRtTarget()
    stored: dict[str, str] = {}
    failures: list[StagekitError] = []
    for entry in manifest["graphs"]:
        try:
            digest, remark = _import(folder, entry, profile, target, store)
        except (BundleError, VerificationFailed, EngineError) as error:
            progress(f"{entry['graph']}: NOT STORED: {error.what}")
            failures.append(error)
        else:
            stored[entry["graph"]] = digest
            progress(f"{entry['graph']}: {digest[:12]}{remark}")
    if failures:
        raise failures[0]
    return stored


def _import(
    folder: Path, entry: Mapping[str, Any], profile: Profile, target: TensorRtTarget, store: Store
) -> tuple[str, str]:
    """Stores one plan unless it is there; returns its digest, and a remark where it was not run."""
    result = read_result(folder, entry)
    facts = sidecar.metadata(profile, result, entry["nodes"])
    key = _key(entry, profile, target, facts)
    here = {"toolchain": target.toolchain(profile), "device": target.device(profile)}
    gpu = sidecar.gpu_of(profile)
    runs_here = target.probe().run and sidecar.misfit(facts, here, gpu) is None

    def build(workdir: Path) -> EngineBlob:
        """What does not give the golden outputs never gets into the store."""
        shutil.copyfile(folder / f"{entry['name']}.plan", workdir / sidecar.PLAN)
        report = {"built": "from a kit", "seconds": result["seconds"], "warnings": result["warnings"]}
        blob = EngineBlob(workdir, (sidecar.PLAN,), key.inputs, key.outputs, facts, report)
        if runs_here:
            check_golden(folder, entry, blob, profile, target)
        return blob

    cached = store.get_or_build(key, build).cached
    found = f"here is {gpu.name}, {here['toolchain']}" if gpu else "there is no GPU here"
    return key.digest, " (already there)" if cached else "" if runs_here else f" (not run: {found})"


def read_result(folder: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Who built a plan and from what: from the builder's result, else from trtexec's log.

    Raises:
        BundleError: the plan is missing, is not the one reported, or was made from another ONNX file.
    """
    name = entry["name"]
    plan, written = folder / f"{name}.plan", folder / f"{name}.result.json"
    if not plan.is_file():
        raise BundleError("this plan has not been built", where=plan, remedy="python -m builder .")
    digest = hashlib.sha256(plan.read_bytes()).hexdigest()
    if written.is_file():
        try:
            result: dict[str, Any] = json.loads(written.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BundleError(
                f"expected what the builder writes: {error}", where=written, remedy="build it again"
            ) from error
        if result["sha256"] != digest:
            raise BundleError("the plan is not the one that its result describes", where=plan, remedy="build it again")
        if result["onnx_sha256"] != entry["onnx_sha256"]:
            raise BundleError("the plan was built from another ONNX file", where=plan, remedy="build it again")
        return result
    log = folder / f"{name}.log"
    if not log.is_file():
        raise BundleError("neither a result nor a log says which TensorRT built this plan", where=plan)
    facts = from_trtexec(log.read_text(encoding="utf-8", errors="replace"), log)
    onnx = hashlib.sha256((folder / f"{name}.onnx").read_bytes()).hexdigest()
    return {**facts, "seconds": 0.0, "bytes": plan.stat().st_size, "sha256": digest, "onnx_sha256": onnx}


def from_trtexec(log: str, where: Path) -> dict[str, Any]:
    """Version and GPU out of trtexec's log (``[TensorRT v101600] [b11]``, ``Selected Device: ...``).

    Raises:
        BundleError: they are not in it, or it does not end in success.
    """
    version = re.search(r"\[TensorRT v(\d+)(\d\d)(\d\d)\] \[b(\d+)\]", log)
    device = re.search(r"Selected Device: (.+)", log)
    capability = re.search(r"Compute Capability: (\d+)\.(\d+)", log)
    if not (version and device and capability and "&&&& PASSED" in log):
        raise BundleError("expected the log of a trtexec that passed", where=where, remedy="./build_with_trtexec.sh")
    major, minor, patch, build = (int(part) for part in version.groups())
    return {
        "builder": "tensorrt",
        "version": f"{major}.{minor}.{patch}.{build}",
        "gpu": {"index": 0, "name": device[1].strip(), "capability": int(capability[1]) * 10 + int(capability[2])},
        "warnings": re.findall(r"\[W\] (.+)", log),
    }


def check_golden(
    folder: Path, entry: Mapping[str, Any], blob: EngineBlob, profile: Profile, target: TensorRtTarget
) -> None:
    """Runs a plan on the golden inputs.

    Raises:
        VerificationFailed: an output is further off than :data:`TOLERANCES` allows.
    """
    with np.load(folder / f"{entry['name']}.golden.npz") as golden:
        arrays = {name: golden[name] for name in golden.files}
    engine = target.load(blob, profile)
    try:
        inputs = []
        for spec in engine.inputs:
            array = arrays[f"in:{spec.name}"].astype(spec.numpy_dtype)
            inputs.append(HostBuffer(replace(spec, shape=array.shape), array))
        for buffer in engine.lane().submit(inputs, profile.batch[0]).wait():
            compare(buffer.to_host(), arrays[f"out:{buffer.spec.name}"], profile.precision, buffer.spec.name)
    finally:
        engine.close()


def compare(found: np.ndarray[Any, Any], wanted: np.ndarray[Any, Any], precision: str, name: str) -> None:
    """Raises VerificationFailed where an output is not what ONNX Runtime gave."""
    if wanted.dtype == np.uint8:
        same = float(np.mean(found == wanted))
        if same < LABEL_AGREEMENT:
            raise VerificationFailed(f"{same:.2%} of the labels agree, expected {LABEL_AGREEMENT:.0%}", where=name)
        return
    largest = float(np.abs(wanted.astype(np.float32)).max()) or 1.0
    error = float(np.abs(found.astype(np.float32) - wanted.astype(np.float32)).max()) / largest
    if not error <= TOLERANCES[precision]:
        raise VerificationFailed(
            f"off by {error:.2e} of the largest value, allowed {TOLERANCES[precision]:.0e}", where=name
        )


def _key(entry: Mapping[str, Any], profile: Profile, target: TensorRtTarget, facts: Mapping[str, Any]) -> EngineKey:
    return EngineKey(
        graph=entry["fingerprint"],
        inputs=_specs(entry["inputs"]),
        outputs=_specs(entry["outputs"]),
        target=target.name,
        profile=profile.digest(target),
        toolchain=facts["toolchain"],
        device=facts["device"],
    )


def _specs(data: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec.from_dict(spec) for spec in data)


def main(arguments: list[str]) -> int:
    """The command; returns its exit code."""
    asked = arguments[:1] in (["-h"], ["--help"])
    if asked or len(arguments) != 1:
        print(__doc__, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    try:
        import_kit(Path(arguments[0]), Store.default())
    except StagekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
