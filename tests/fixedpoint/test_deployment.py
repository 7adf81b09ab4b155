"""Whole tasks: stages in fixed point, SPMs and heads in float on the CPU, integers at the boundaries."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from stagekit_calib import calibrate, from_iterable, open_chain
from stagekit_calib.chain import OrtGraph
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.__main__ import main as write_memory
from stagekit_fixedpoint.files import from_json
from stagekit_fixedpoint.target import load_program

from stagekit.build.compile import compile
from stagekit.bundle import DeployManifest, read_manifest
from stagekit.errors import UsageError
from stagekit.quant.error import sqnr
from stagekit.quant.record import load, save
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


def test_inspect_with_images_fills_saturation_and_noise(zoo: Any, folder: Path, tmp_path: Path) -> None:
    from stagekit.cli.inspect import command

    output = deploy(zoo, folder, "dpu-b4096-zcu104")
    images = [picture(seed) for seed in (20, 21)]
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    given = ["--data", tmp_path, "--stages", zoo.stages, "--calibration", folder / "tiny.calib"]
    found = CliRunner().invoke(command, [str(output), *map(str, given), "--json"], catch_exceptions=False)
    reports = json.loads(found.stdout)["reports"]
    layers = [layer for report in reports.values() for layer in report["layers"]]
    assert all(0 <= layer["saturated"] < 0.2 for layer in layers if layer["saturated"] is not None)
    assert sum(layer["sqnr_db"] is not None for layer in layers) > len(layers) / 2
    chain, first = open_chain(zoo.stages), read_manifest(output, DeployManifest).stages[0]
    frames = np.stack([chain.geometry("").apply(image)[0] for image in images])
    program = load_program(output / "engines" / first.engine)
    (name,) = program.outputs
    stored = reference.run(program, {program.inputs[0]: frames.astype(np.int64)})[name]
    real = OrtGraph(chain.graphs[first.name]).run([frames])[0][0]
    expected = sqnr(real, stored * program.tensors[name].scale)
    assert reports[first.name]["layers"][-1]["sqnr_db"] == pytest.approx(expected, abs=0.01)


def test_memory_images_of_all_stages_replay_a_picture(zoo: Any, folder: Path, tmp_path: Path) -> None:
    Image.fromarray(picture(30)).save(tmp_path / "picture.png")
    output = deploy(zoo, folder, "dpu-b4096-zcu104")
    given = [str(output), "-o", str(tmp_path / "memory"), "--image", str(tmp_path / "picture.png")]
    CliRunner().invoke(write_memory, given, catch_exceptions=False)
    before = None
    for stage in read_manifest(output, DeployManifest).stages:
        made = tmp_path / "memory" / stage.name
        program = from_json((made / "program.json").read_text(), dict(np.load(made / "memory.npz")))
        vectors = [dict(np.load(path)) for path in sorted((made / "vectors").iterdir())]
        assert len(vectors) == len(program.steps)
        for step, vector in zip(program.steps, vectors, strict=True):
            values = {n: vector[f"input{i}"].astype(np.int64) for i, n in enumerate(step.inputs)}
            assert np.array_equal(reference.evaluate(program, step, values), vector["output"])
        assert before is None or np.array_equal(vectors[0]["input0"], before)
        before = vectors[-1]["output"]
        assert "modelled for dpu-b4096-zcu104" in (made / "roofline.txt").read_text()


def test_memory_images_are_of_fixed_point_alone(zoo: Any, folder: Path, tmp_path: Path) -> None:
    given = [str(deploy(zoo, folder, "ort-f32")), "-o", str(tmp_path / "memory")]
    result = CliRunner().invoke(write_memory, given)
    assert result.exit_code == 1
    assert "its target is onnxruntime" in result.output


def test_images_need_the_float_stages(zoo: Any, folder: Path, tmp_path: Path) -> None:
    from stagekit.cli.inspect import command

    output = deploy(zoo, folder, "dpu-b4096-zcu104")
    result = CliRunner().invoke(command, [str(output), "--data", str(tmp_path)])
    assert isinstance(result.exception, UsageError)
    assert "--stages" in str(result.exception)


def test_a_record_that_keeps_layers_in_floats_is_refused(zoo: Any, folder: Path, tmp_path: Path) -> None:
    record = replace(load(folder / "tiny.calib"), keep_float=("stage1/*",))
    save(record, tmp_path / "floats.calib")
    with pytest.raises(UsageError, match="keeps stage1/\\* in floats, which this device has no unit for"):
        compile(
            [zoo.stages],
            profile="tflite-int8",
            calibration=tmp_path / "floats.calib",
            store=Store(folder / "store"),
        )
