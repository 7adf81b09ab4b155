"""What stops half-way, is damaged or cannot be written: messages, exit codes, nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from stagekit_calib.chain import execute

from stagekit.store.record import SIDECAR

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("verb", "missing", "extra"), [("partition", "torch", "torch"), ("tune", "torch", "tune"), ("tune", "cv2", "tune")]
)
def test_a_missing_package_is_named_with_what_to_install(
    fresh_stagekit: Run, verb: str, missing: str, extra: str
) -> None:
    done = fresh_stagekit(verb, "lite0", block=(missing,))
    assert done.code == 2
    assert f"needs the package {missing}" in done.err
    assert f"pip install 'stagekit[{extra}]'" in done.err
    assert "Traceback" not in done.err


def test_a_damaged_store_is_one_json_document_with_exit_code_5(deployment: Path, stagekit: Run, store: Path) -> None:
    damaged = next(file for file in store.glob("objects/*/*/*") if file.name != SIDECAR)
    damaged.write_bytes(damaged.read_bytes() + b"more")
    done = stagekit("store", "verify", "--json")
    assert (done.code, done.json["error"]) == (5, "VerificationFailed")
    assert [entry["file"] for entry in done.json["damaged"]] == [str(damaged)]


def test_an_interrupted_compilation_says_what_is_kept(
    zoo: Any, stagekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stagekit.build.compile.compile", interrupted)
    done = stagekit("compile", zoo.stages, "--target", "onnxruntime", "-o", tmp_path / "d.deploy")
    assert (done.code, "the same command goes on" in done.err) == (130, True)


def test_an_interrupted_calibration_says_how_to_go_on(
    zoo: Any, stagekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "tiles").mkdir()
    for i in range(30):
        Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8)).save(tmp_path / "tiles" / f"{i:02d}.png")
    given = ("calibrate", zoo.stages, "--data", tmp_path / "tiles", "-o", tmp_path / "x.calib")

    def interrupted_behind(images: int) -> Callable[..., Any]:
        left = images

        def step(*args: Any) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            execute(*args)

        return step

    monkeypatch.setattr("stagekit_calib.run.execute", interrupted_behind(10))
    done = stagekit(*given)
    assert (done.code, "--resume" in done.err) == (130, False), "there is nothing yet to go on from"
    monkeypatch.setattr("stagekit_calib.run.execute", interrupted_behind(27))
    done = stagekit(*given)
    assert (done.code, "--resume" in done.err) == (130, True)
    assert not (tmp_path / "x.calib").exists()
    monkeypatch.setattr("stagekit_calib.run.execute", interrupted_behind(5))
    assert stagekit(*given, "--resume").code == 0, "five images were left"
    assert not (tmp_path / "x.calib.partial").exists()


def test_a_damaged_engine_in_a_deployment_is_found(deployment: Path, stagekit: Run, photo: Path) -> None:
    engine = next((deployment / "engines").rglob("engine.onnx"))
    blob = bytearray(engine.read_bytes())
    blob[len(blob) // 2] ^= 1
    engine.write_bytes(blob)
    done = stagekit("run", deployment, photo)
    assert done.code == 4
    assert "engine.onnx" in done.err


def test_an_engine_of_another_toolchain_is_not_loaded(
    deployment: Path, stagekit: Run, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stagekit_onnxruntime import OnnxRuntimeTarget

    monkeypatch.setattr(OnnxRuntimeTarget, "toolchain", lambda self, profile: "onnxruntime 99")
    done = stagekit("run", deployment, photo)
    assert done.code == 4
    assert "onnxruntime 99" in done.err


def test_a_store_that_cannot_be_written_is_said_and_leaves_nothing(
    zoo: Any, stagekit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("STAGEKIT_STORE", str(tmp_path / "file" / "store"))
    done = stagekit("compile", zoo.stages, "--target", "onnxruntime", "-o", tmp_path / "d.deploy")
    assert done.code == 1
    assert "STAGEKIT_STORE" in done.err
    assert not (tmp_path / "d.deploy").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), MemoryError("Unable to allocate 99 GiB")])
def test_a_full_disk_or_memory_is_a_message(
    deployment: Path, stagekit: Run, photo: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("stagekit.data.images.write_mask", fail)
    done = stagekit("run", deployment, photo, "-o", tmp_path / "out")
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: ")
    assert error.args[-1] in done.err
    assert stagekit("run", deployment, photo, "-o", tmp_path / "out", "--json").json["error"] == type(error).__name__


def test_what_is_not_a_bundle_is_not_overwritten(zoo: Any, stagekit: Run, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    done = stagekit("compile", zoo.stages, "--target", "onnxruntime", "-o", tmp_path / "letters")
    assert done.code == 4
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"


def test_verify_of_a_chain_that_differs_is_exit_code_5(zoo: Any, stagekit: Run, tmp_path: Path) -> None:
    # The stem of a backbone with other weights, honestly declared: whole files, a wrong chain.
    mixed = tmp_path / "mixed.stages"
    shutil.copytree(zoo.stages, mixed)
    data = json.loads((mixed / "manifest.json").read_text())
    other = json.loads((zoo.foreign / "manifest.json").read_text())
    for name in ("stem.onnx", "weights.bin"):
        shutil.copy(zoo.foreign / name, mixed / f"other-{name}" if name == "weights.bin" else mixed / name)
    blob = (mixed / "stem.onnx").read_bytes().replace(b"weights.bin", b"other-weigh")
    assert blob  # small weights lie inside the graph; larger ones would need their own file
    data["stages"][0]["fingerprint"] = other["stages"][0]["fingerprint"]
    (mixed / "manifest.json").write_text(json.dumps(data))
    done = stagekit("verify", mixed)
    assert done.code == 5, done.err
    assert "stem" in done.err
    done = stagekit("verify", mixed, "--json")
    assert (done.code, done.json["error"]) == (5, "VerificationFailed")
    assert not all(b["ok"] for b in done.json["boundaries"]), "one document: the result and what it amounts to"


def test_an_absent_runtime_is_exit_code_3_with_what_to_install(zoo: Any, fresh_stagekit: Run) -> None:
    done = fresh_stagekit("compile", zoo.stages, "--target", "openvino", block=("openvino",))
    assert done.code == 3
    assert "pip install" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize("outputs", ["labels", "logits"])
def test_results_are_there_whole_or_not_at_all(
    zoo: Any, stagekit: Run, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: str
) -> None:
    path, out = tmp_path / "tiny.deploy", tmp_path / "out"
    given = (zoo.stages, zoo.tasks["sea"], "--target", "onnxruntime", "--outputs", outputs)
    assert stagekit("compile", *given, "-o", path).code == 0
    assert stagekit("run", path, photo, "-o", out).code == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert len(before) == (2 if outputs == "labels" else 1)
    write = Path.write_bytes

    def half(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    done = stagekit("run", path, photo, "-o", out)
    assert (done.code, str(out) in done.err, "No space left" in done.err) == (1, True, True), done.err
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
