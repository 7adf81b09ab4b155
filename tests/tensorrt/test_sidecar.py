"""A plan is refused by our own record before the vendor's code sees it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stagekit_tensorrt import sidecar
from stagekit_tensorrt.builder.gpu import Gpu

from stagekit.errors import EngineError, UsageError
from stagekit.target import EngineBlob

from .conftest import MakeProfile

HERE = Gpu(0, "NVIDIA RTX A4000", 86)
CONTENT = b"plan" * 100


def result(builder: str = "tensorrt-rtx", version: str = "1.7.1.116", gpu: Gpu | None = HERE) -> dict[str, Any]:
    return {
        "builder": builder,
        "version": version,
        "gpu": {"index": gpu.index, "name": gpu.name, "capability": gpu.capability} if gpu else None,
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "onnx_sha256": "0" * 64,
    }


@pytest.fixture
def blob(tmp_path: Path, profile: MakeProfile) -> EngineBlob:
    (tmp_path / sidecar.PLAN).write_bytes(CONTENT)
    facts = sidecar.metadata(profile(compute_capability="86"), result(), {"QuantizeLinear": 2})
    return EngineBlob(tmp_path, (sidecar.PLAN,), (), (), facts)


def here(blob: EngineBlob) -> dict[str, str]:
    return {key: blob.metadata[key] for key in ("toolchain", "device")}


def test_a_sound_plan_passes(blob: EngineBlob) -> None:
    sidecar.check(blob, here(blob), HERE)
    assert blob.metadata["quantize_nodes"] == 2


@pytest.mark.parametrize("key", ["toolchain", "device"])
def test_another_version_or_device_is_refused_with_the_command(blob: EngineBlob, key: str) -> None:
    with pytest.raises(EngineError, match=f"made with {key}") as caught:
        sidecar.check(blob, here(blob) | {key: "another"}, HERE)
    assert "stagekit compile" in str(caught.value)


@pytest.mark.parametrize(
    ("compatible", "here", "fits"),
    [
        (True, "10.16.1.11", True),
        (True, "10.17.0.2", True),
        (True, "10.9.0.34", False),
        (True, "11.4.0.106", False),
        (True, "", False),
        (False, "10.17.0.2", False),
    ],
)
def test_a_version_compatible_plan_runs_on_later_versions_of_its_major_version(
    tmp_path: Path, profile: MakeProfile, compatible: bool, here: str, fits: bool
) -> None:
    (tmp_path / sidecar.PLAN).write_bytes(CONTENT)
    facts = sidecar.metadata(profile(version_compatible=compatible), result("tensorrt", "10.16.1.11"), {})
    found = {"toolchain": sidecar.toolchain_of("tensorrt", here), "device": facts["device"]}
    wrong = sidecar.misfit(facts, found, HERE)
    assert wrong is None if fits else "made with toolchain 'tensorrt 10.16.1.11 engine 1'" in str(wrong)


def test_a_package_and_its_library_are_one_version() -> None:
    assert sidecar.toolchain_of("tensorrt", "10.13.3.9.post1") == sidecar.toolchain_of("tensorrt", "10.13.3.9")


def test_another_compute_capability_is_refused(blob: EngineBlob) -> None:
    with pytest.raises(EngineError, match="for compute capability 86; NVIDIA H100 has 90"):
        sidecar.check(blob, here(blob), Gpu(0, "NVIDIA H100", 90))


def test_a_portable_plan_is_refused_before_ampere_alone(tmp_path: Path, profile: MakeProfile) -> None:
    (tmp_path / sidecar.PLAN).write_bytes(CONTENT)
    blob = EngineBlob(tmp_path, (sidecar.PLAN,), (), (), sidecar.metadata(profile(), result(), {}))
    sidecar.check(blob, here(blob), Gpu(0, "NVIDIA RTX 5090", 120))
    with pytest.raises(EngineError, match="80 and later; NVIDIA T4 has 75"):
        sidecar.check(blob, here(blob), Gpu(0, "NVIDIA T4", 75))


@pytest.mark.parametrize(
    ("content", "says"),
    [(CONTENT[:-1], "expected 400 bytes, found 399"), (CONTENT[:-1] + b"!", "damaged"), (None, "found no file")],
)
def test_changed_bytes_are_refused(blob: EngineBlob, content: bytes | None, says: str) -> None:
    path = blob.root / sidecar.PLAN
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(EngineError, match=says):
        sidecar.check(blob, here(blob), HERE)


def test_a_record_of_another_format_is_refused(blob: EngineBlob) -> None:
    old = replace(blob, metadata={**blob.metadata, "format": 0})
    with pytest.raises(EngineError, match="record of format 1, found 0"):
        sidecar.check(old, here(blob), HERE)


def test_tensorrt_ties_a_plan_to_the_gpu_unless_told_otherwise(profile: MakeProfile) -> None:
    def device(**options: object) -> str:
        return sidecar.device_of("tensorrt", profile(**options), HERE)

    assert device() == "sm86 NVIDIA RTX A4000"
    assert device(hardware_compatibility="same_compute_capability") == "sm86"
    assert device(hardware_compatibility="ampere_plus") == "sm80 and later"
    with pytest.raises(UsageError, match="one compute capability at a time"):
        device(compute_capability="86,89")


def test_rtx_plans_name_the_capabilities_and_no_gpu(profile: MakeProfile) -> None:
    assert sidecar.device_of("tensorrt-rtx", profile(compute_capability="120,86"), HERE) == "sm86+sm120"
    assert sidecar.device_of("tensorrt-rtx", profile(), None) == "sm80 and later"


def test_a_device_that_is_no_gpu_is_refused(profile: MakeProfile) -> None:
    with pytest.raises(UsageError, match="GPU or GPU:<number>, not 'CPU'"):
        sidecar.gpu_of(replace(profile(), device="CPU"))
