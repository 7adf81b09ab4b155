"""An engine's identity: what is written down when it is built, and checked before the vendor's code sees it.

TensorRT's lean runtime ends the process on a plan that it cannot read, so nothing but our own record decides
whether a plan is handed over.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from stagekit.blob import check_sizes
from stagekit.errors import EngineError, UsageError
from stagekit.target import EngineBlob, Profile
from stagekit_tensorrt.builder.gpu import Gpu, gpus
from stagekit_tensorrt.config import COMPATIBILITY, capabilities
from stagekit_tensorrt.installed import resolve

FORMAT = 1
"""Counts changes to the metadata and to what :mod:`stagekit_tensorrt.typed` makes; enters every key."""

PLAN = "engine.plan"
AMPERE = 80
BUILD_AGAIN = "build it again: stagekit compile ... --target tensorrt"


def toolchain(profile: Profile) -> str:
    """Builder and version, e.g. ``tensorrt-rtx 1.7.1.116 engine 1``."""
    builder, version = resolve(profile)
    return toolchain_of(builder, version)


def toolchain_of(builder: str, version: str) -> str:
    """Of a version its numbers alone: a package calls itself ``10.13.3.9.post1``, the library in it ``10.13.3.9``."""
    return f"{builder} {_numbers(version)} engine {FORMAT}"


def _numbers(version: str) -> str:
    found = re.match(r"\d+(\.\d+)*", version)
    return found[0] if found else version


def device(profile: Profile) -> str:
    """What a plan is built for: compute capabilities, and for full TensorRT the GPU's name unless told otherwise.

    TensorRT ties a plan to the model of GPU that it was built on, except with a hardware compatibility level
    (https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html).
    """
    builder, _ = resolve(profile)
    return device_of(builder, profile, gpu_of(profile))


def device_of(builder: str, profile: Profile, gpu: Gpu | None) -> str:
    """:func:`device` where builder and GPU are known."""
    asked = capabilities(profile)
    if builder == "tensorrt-rtx":
        return "+".join(f"sm{number}" for number in asked) or f"sm{AMPERE} and later"
    level = profile.choice("hardware_compatibility", COMPATIBILITY, "none")
    if level == "ampere_plus":
        return f"sm{AMPERE} and later"
    if len(asked) > 1:
        raise UsageError("TensorRT builds for one compute capability at a time", where=f"profile {profile.name}")
    number = asked[0] if asked else gpu.capability if gpu else None
    text = f"sm{number}" if number else "the GPU at hand"
    return text if level == "same_compute_capability" or gpu is None else f"{text} {gpu.name}"


def gpu_index(profile: Profile) -> int:
    """The number of the GPU that a profile's ``device`` names: ``GPU`` is the first, ``GPU:1`` the second.

    Raises:
        UsageError: it names something else.
    """
    kind, _, number = profile.device.partition(":")
    if kind != "GPU" or not (number or "0").isdecimal():
        raise UsageError(
            f"the device of a TensorRT profile is GPU or GPU:<number>, not {profile.device!r}",
            where=f"profile {profile.name}",
        )
    return int(number or 0)


def gpu_of(profile: Profile) -> Gpu | None:
    """The GPU that a profile names; ``None`` where it is not here."""
    index = gpu_index(profile)
    return next((gpu for gpu in gpus() if gpu.index == index), None)


def built_for(builder: str, profile: Profile, gpu: Gpu | None) -> list[int]:
    """The compute capabilities that a plan runs on; empty stands for Ampere and later."""
    if builder == "tensorrt-rtx" or capabilities(profile):
        return list(capabilities(profile))
    if profile.choice("hardware_compatibility", COMPATIBILITY, "none") == "ampere_plus" or gpu is None:
        return []
    return [gpu.capability]


def metadata(profile: Profile, result: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    """The sidecar of a plan.

    Args:
        result: what the builder reports.
        counts: nodes of the graph by operator.
    """
    gpu = Gpu(**result["gpu"]) if result["gpu"] else None
    return {
        "format": FORMAT,
        "toolchain": toolchain_of(result["builder"], result["version"]),
        "device": device_of(result["builder"], profile, gpu),
        "builder": result["builder"],
        "version": result["version"],
        "compute_capabilities": built_for(result["builder"], profile, gpu),
        "options": {k: profile.options[k] for k in sorted(profile.options)},
        "precision": profile.precision,
        "batches": list(profile.batch),
        "quantize_nodes": counts.get("QuantizeLinear", 0),
        "dequantize_nodes": counts.get("DequantizeLinear", 0),
        "onnx_sha256": result["onnx_sha256"],
        "bytes": [result["bytes"]],
        "sha256": [result["sha256"]],
    }


def misfit(found: Mapping[str, Any], here: Mapping[str, str], gpu: Gpu | None) -> tuple[str, str] | None:
    """Why this machine's runtime must not see a plan, and the way out; ``None`` where it may.

    Args:
        found: the plan's metadata.
        here: ``toolchain`` and ``device`` as they are now.
        gpu: that would run it; ``None`` where there is none, which is for the caller to report.
    """
    if found.get("format") != FORMAT:
        return f"expected a record of format {FORMAT}, found {found.get('format')!r}", BUILD_AGAIN
    for key, value in here.items():
        if found.get(key) != value and not (key == "toolchain" and _takes_later(found, value)):
            return f"the engine was made with {key} {found.get(key)!r}, here it is {value!r}", BUILD_AGAIN
    runs_on = found["compute_capabilities"]
    if gpu is not None and not (gpu.capability in runs_on if runs_on else gpu.capability >= AMPERE):
        wanted = ", ".join(map(str, runs_on)) or f"{AMPERE} and later"
        return (
            f"the engine is for compute capability {wanted}; {gpu.name} has {gpu.capability}",
            f"set compute_capability to {gpu.capability} in the profile and compile again",
        )
    return None


def _takes_later(found: Mapping[str, Any], toolchain: str) -> bool:
    """Whether a plan was built to be loaded by later TensorRT of its major version, and that is what is here.

    https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/version-compatibility.html
    """
    if found["builder"] != "tensorrt" or not found["options"].get("version_compatible"):
        return False
    name, _, rest = toolchain.partition(" ")
    built, present = (
        [int(number) for number in _numbers(version).split(".") if number]
        for version in (found["version"], rest.partition(" ")[0])
    )
    return name == "tensorrt" and built[:1] == present[:1] and built <= present


def check(blob: EngineBlob, here: Mapping[str, str], gpu: Gpu | None) -> None:
    """Refuses a plan that this machine's runtime must not see; see :func:`misfit`.

    Raises:
        EngineError: another version or device, or its bytes are not those that were built.
    """
    found, remedy = blob.metadata, BUILD_AGAIN
    wrong = misfit(found, here, gpu)
    if wrong is not None:
        raise EngineError(wrong[0], where=blob.root, remedy=wrong[1])
    check_sizes(blob, remedy)
    for name, digest in zip(blob.files, found["sha256"], strict=True):
        path = blob.root / name
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != digest:
                raise EngineError("the engine is damaged: its contents are not those built", where=path, remedy=remedy)
