"""Whole tasks: stages in fixed point, SPMs and heads in float on the CPU, integers at the boundaries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from stagekit_calib import calibrate, from_iterable, open_chain

from stagekit.build.compile import compile
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.errors import UsageError
from stagekit.quant.record import save
from stagekit.session import Session
from stagekit.store import Store


def picture(seed: int) -> Any:
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:40, 0:56]
    waves = [np.sin(rows / random.uniform(3, 9) + columns / random.uniform(3, 9)) for _ in range(3)]
    noisy = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 12, (40, 56, 3))
    return np.clip(noisy, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def folder(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and a record of the tiny backbone with one task."""
    made = tmp_path_factory.mktemp("fixedpoint")
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    save(calibrate(chain, from_iterable([picture(i) for i in range(6)]), "minmax"), made / "tiny.calib")
    return made


def deploy(zoo: Any, folder: Path, profile: str) -> Path:
    output = folder / f"{profile}.deploy"
    record = None if profile == "ort-f32" else folder / "tiny.calib"
    compile(
        [zoo.stages, zoo.tasks["land"]],
        profile=profile,
        output=output,
        calibration=record,
        store=Store(folder / "store"),
    )
    return output


@pytest.mark.parametrize(
    ("profile", "dtype", "agreement"), [("dpu-b4096-zcu104", "int8", 0.9), ("hls-16-6", "int16", 0.98)]
)
def test_a_task_answers_as_in_floats(zoo: Any, folder: Path, profile: str, dtype: str, agreement: float) -> None:
    fixed, plain = deploy(zoo, folder, profile), deploy(zoo, folder, "ort-f32")
    manifest = read_manifest(fixed, DeployManifest)
    assert (manifest.target, manifest.adapters and manifest.adapters.target) == ("fixedpoint", "onnxruntime")
    for stage in manifest.stages:
        (tensor,) = stage.boundary.tensors
        assert tensor.dtype == dtype and tensor.quantization is not None
        assert np.log2(tensor.quantization.scale[0]).is_integer()
    with Session(fixed) as integers, Session(plain) as floats:
        same = [np.mean(integers.run(picture(i))["land"] == floats.run(picture(i))["land"]) for i in range(10, 14)]
    assert np.mean(same) > agreement


def test_sixteen_bits_need_a_record_too(zoo: Any, folder: Path) -> None:
    with pytest.raises(UsageError, match="computes in int16, whose ranges come from a calibration record"):
        compile([zoo.stages], profile="hls-16-6", store=Store(folder / "store"))


def test_inspect_shows_the_layers_and_says_that_times_are_modelled(zoo: Any, folder: Path) -> None:
    from stagekit.cli.inspect import command

    output = deploy(zoo, folder, "dpu-b4096-zcu104")
    shown = CliRunner().invoke(command, [str(output)], catch_exceptions=False).output
    stages = read_manifest(output, DeployManifest).stages
    assert shown.count("modelled for dpu-b4096-zcu104") == len(stages) + 1
    assert "saturated %" in shown and "SQNR dB" in shown
    engine = CliRunner().invoke(command, [str(output / "engines" / stages[0].engine)], catch_exceptions=False).output
    assert "modelled for dpu-b4096-zcu104" in engine
    floats = CliRunner().invoke(command, [str(deploy(zoo, folder, "ort-f32"))], catch_exceptions=False).output
    assert "modelled" not in floats
