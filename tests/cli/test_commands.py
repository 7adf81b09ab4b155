"""The command line as its user meets it: results, exit codes, bad input."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from PIL import Image
from stagekit_calib.chain import execute

from stagekit.cli import VERBS
from stagekit.store.record import SIDECAR

Run = Callable[..., Any]


@pytest.fixture
def deployment(zoo: Any, stagekit: Run, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.deploy"
    done = stagekit("compile", zoo.stages, zoo.tasks["land"], zoo.tasks["sea"], "--target", "onnxruntime", "-o", path)
    assert done.code == 0, done.err
    return path


def test_compile_gives_the_agreed_json(zoo: Any, stagekit: Run) -> None:
    done = stagekit("compile", zoo.stages, "--target", "onnxruntime", "--json")
    engine = done.json["engines"][0]
    assert {"graph", "digest", "cached", "seconds", "bytes"} <= engine.keys()
    assert engine["graph"] == "stem"
    assert engine["cached"] is False
    again = stagekit("compile", zoo.stages, "--target", "onnxruntime", "--json")
    assert all(e["cached"] for e in again.json["engines"])


def test_run_writes_label_maps_with_the_tasks_palette_in_the_images_size(
    deployment: Path, stagekit: Run, photo: Path, tmp_path: Path
) -> None:
    done = stagekit("run", deployment, photo, "--task", "land", "-o", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    (row,) = done.json["results"]
    with Image.open(row["labels"]) as labels:
        assert labels.mode == "P"
        assert labels.size == (83, 61)
        assert labels.getpalette()[3:6] == [60, 195, 90]  # class 1
        assert int(np.asarray(labels).max()) < 4
    with Image.open(row["overlay"]) as overlay:
        assert overlay.size == (83, 61)
    assert sum(row["shares"].values()) == pytest.approx(1)


def test_two_tasks_share_what_comes_before_their_first_difference(
    deployment: Path, stagekit: Run, photo: Path, tmp_path: Path
) -> None:
    done = stagekit("run", deployment, photo, "-o", tmp_path / "out", "--json")
    calls = {c["call"]: (c["calls"], c["shared"]) for c in done.json["calls"]}
    # "land" prompts the stem's output, so only the stem itself is common.
    assert calls["stem"] == (1, 1)
    assert calls["stage1"] == (2, 0)


def test_run_needs_nothing_but_the_deployment(
    zoo: Any, stagekit: Run, fresh_stagekit: Run, photo: Path, store: Path, tmp_path: Path
) -> None:
    stages, task, path = tmp_path / "s.stages", tmp_path / "t.task", tmp_path / "alone.deploy"
    shutil.copytree(zoo.stages, stages)
    shutil.copytree(zoo.tasks["land"], task)
    assert stagekit("compile", stages, task, "--target", "onnxruntime", "-o", path).code == 0
    for folder in (stages, task, store):
        shutil.rmtree(folder)
    done = fresh_stagekit("run", path, photo, "-o", tmp_path / "out")
    assert done.code == 0, done.err
    assert (tmp_path / "out" / "photo.land.png").is_file()
    assert not store.exists()


def test_compile_and_run_work_without_torch(zoo: Any, fresh_stagekit: Run, photo: Path, tmp_path: Path) -> None:
    path, block = tmp_path / "d.deploy", ("torch",)
    done = fresh_stagekit("compile", zoo.stages, zoo.tasks["land"], "--target", "onnxruntime", "-o", path, block=block)
    assert done.code == 0, done.err
    done = fresh_stagekit("run", path, photo, "-o", tmp_path / "out", block=block)
    assert done.code == 0, done.err
    done = fresh_stagekit("verify", zoo.stages, block=block)
    assert done.code == 0, done.err


def test_an_absent_runtime_is_exit_code_3_with_what_to_install(zoo: Any, fresh_stagekit: Run) -> None:
    done = fresh_stagekit("compile", zoo.stages, "--target", "openvino", block=("openvino",))
    assert done.code == 3
    assert "pip install" in done.err
    assert "Traceback" not in done.err


def test_every_verb_has_help_with_an_example(stagekit: Run) -> None:
    from stagekit.cli import VERBS

    for verb in VERBS:
        done = stagekit(verb, "--help")
        assert done.code == 0
        assert f"stagekit {verb}" in done.out, verb


def test_a_mistyped_verb_names_the_nearest(stagekit: Run) -> None:
    done = stagekit("complie")
    assert done.code == 2
    assert "compile" in done.err


def test_an_error_with_json_is_json_alone(stagekit: Run, tmp_path: Path) -> None:
    done = stagekit("inspect", tmp_path / "nothing.task", "--json")
    assert done.code == 4
    assert done.json["error"] == "BundleError"
    assert done.json["exit_code"] == 4


def test_verify_prints_every_boundary(zoo: Any, stagekit: Run) -> None:
    done = stagekit("verify", zoo.stages, "--json")
    assert done.code == 0, done.err
    assert [b["boundary"] for b in done.json["boundaries"]] == ["stem", "stage1", "stage2"]
    assert all(b["relative"] <= 1e-5 for b in done.json["boundaries"])


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


def test_a_damaged_store_is_one_json_document_with_exit_code_5(deployment: Path, stagekit: Run, store: Path) -> None:
    damaged = next(file for file in store.glob("objects/*/*/*") if file.name != SIDECAR)
    damaged.write_bytes(damaged.read_bytes() + b"more")
    done = stagekit("store", "verify", "--json")
    assert (done.code, done.json["error"]) == (5, "VerificationFailed")
    assert [entry["file"] for entry in done.json["damaged"]] == [str(damaged)]


@pytest.mark.parametrize(
    "command",
    [
        ("verify", "x.stages", "--seed", "-1"),
        ("partition", "lite0", "--seed", "-1"),
        ("store", "gc", "--older-than", "99999999999999d"),
        ("calibrate", "x.stages", "--data", "x", "-o", "x.calib", "--max-drop", "nan"),
    ],
)
def test_numbers_out_of_bounds_are_usage_errors(stagekit: Run, command: tuple[str, ...]) -> None:
    done = stagekit(*command)
    assert (done.code, command[-2] in done.err) == (2, True), done.err


def test_results_do_not_go_among_the_images_they_are_made_from(
    deployment: Path, stagekit: Run, photo: Path, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(photo, photos)
    assert stagekit("run", deployment, photos, "-o", photos / ".." / "photos").code == 2
    assert stagekit("run", deployment, photos, "-o", photos / "out").code == 0
    assert [file.name for file in photos.iterdir() if file.is_file()] == [photo.name]


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


def test_help_fits_80_columns(stagekit: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for verb in VERBS:
        text = stagekit(verb, "--help").out
        assert not [line for line in text.splitlines() if len(line) > 80], verb


def png(array: Any, mode: str | None = None) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(array, mode).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.png", b""),
        ("text.jpg", b"this is not a picture"),
        ("cut.png", png(np.zeros((64, 64, 3), np.uint8))[:60]),
    ],
)
def test_images_that_cannot_be_read_are_named(
    deployment: Path, stagekit: Run, tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    done = stagekit("run", deployment, tmp_path / name, "-o", tmp_path / "out")
    assert done.code == 4
    assert name in done.err
    assert "Traceback" not in done.err
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    "array",
    [
        np.full((20, 30), 128, np.uint8),
        np.full((20, 30, 4), 128, np.uint8),
        np.full((20, 30), 32768, np.uint16),
    ],
    ids=["grey", "rgba", "16 bit"],
)
def test_grey_rgba_and_16_bit_images_run(deployment: Path, stagekit: Run, tmp_path: Path, array: Any) -> None:
    (tmp_path / "image.png").write_bytes(png(array))
    done = stagekit("run", deployment, tmp_path / "image.png", "-o", tmp_path / "out")
    assert done.code == 0, done.err
    with Image.open(tmp_path / "out" / "image.land.png") as labels:
        assert labels.size == (30, 20)


def test_an_image_that_does_not_exist_is_named(deployment: Path, stagekit: Run, tmp_path: Path) -> None:
    done = stagekit("run", deployment, tmp_path / "absent.png")
    assert done.code == 4
    assert "absent.png" in done.err


def test_a_task_that_is_not_deployed_names_the_nearest(deployment: Path, stagekit: Run, photo: Path) -> None:
    done = stagekit("run", deployment, photo, "--task", "lnd")
    assert done.code == 2
    assert "land" in done.err


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


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "empty file"), (b"PK\x03\x04 no model", "cannot be decoded"), (b"\x08\x07", "empty graph")],
)
def test_files_that_are_no_models_are_named(stagekit: Run, tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "model.onnx").write_bytes(content)
    done = stagekit("partition", tmp_path / "model.onnx", "--stages", "2", "-o", tmp_path / "m.stages")
    assert done.code == 4
    assert "model.onnx" in done.err
    assert message in done.err
    assert not (tmp_path / "m.stages").exists()


def test_a_truncated_model_is_named(zoo: Any, stagekit: Run, tmp_path: Path) -> None:
    whole = (zoo.stages / "stem.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(whole[: len(whole) // 2])
    done = stagekit("partition", tmp_path / "cut.onnx", "--stages", "2", "-o", tmp_path / "m.stages")
    assert done.code == 4
    assert "cut.onnx" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "m.stages").exists()


def test_an_unknown_operator_and_a_wrong_number_of_channels_are_named(stagekit: Run, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def model(op: str, channels: int) -> bytes:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", channels, 8, 8])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", channels, 8, 8])
        graph = helper.make_graph([helper.make_node(op, ["x"], ["y"], name="odd")], "g", [x], [y])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]).SerializeToString()

    (tmp_path / "op.onnx").write_bytes(model("Frobnicate", 3))
    done = stagekit("partition", tmp_path / "op.onnx", "--stages", "2", "-o", tmp_path / "m.stages")
    assert done.code == 4
    assert "Frobnicate" in done.err
    assert "odd" in done.err
    (tmp_path / "grey.onnx").write_bytes(model("Relu", 1))
    done = stagekit(
        "partition",
        tmp_path / "grey.onnx",
        "--at",
        "y",
        "--mean",
        "1,1,1",
        "--std",
        "1,1,1",
        "-o",
        tmp_path / "m.stages",
    )
    assert done.code == 4
    assert "3" in done.err
    assert not (tmp_path / "m.stages").exists()


def test_missing_weights_and_unknown_backbones_are_named(stagekit: Run, tmp_path: Path) -> None:
    done = stagekit("partition", "lite0", "--weights", tmp_path / "absent.pth", "-o", tmp_path / "l.stages")
    assert done.code == 4
    assert "absent.pth" in done.err
    done = stagekit("partition", "resnet51", "-o", tmp_path / "r.stages")
    assert done.code == 2
    assert "resnet50" in done.err


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


def test_names_out_of_a_file_cannot_speak_to_the_terminal() -> None:
    from stagekit.cli.console import table

    assert table(["t"], [["a\x1b[31mred\nb"]]).splitlines()[-1] == "a\\x1b[31mred\\nb"


def test_what_is_not_a_bundle_is_not_overwritten(zoo: Any, stagekit: Run, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("dear")
    done = stagekit("compile", zoo.stages, "--target", "onnxruntime", "-o", tmp_path / "letters")
    assert done.code == 4
    assert (tmp_path / "letters" / "dear.txt").read_text() == "dear"


def test_inspect_shows_bundles_deployments_and_models(zoo: Any, deployment: Path, stagekit: Run) -> None:
    for path, word in ((zoo.stages, "stem"), (zoo.tasks["land"], "SPM at stem"), (deployment, "land/head")):
        done = stagekit("inspect", path)
        assert done.code == 0, done.err
        assert word in done.out
    done = stagekit("inspect", zoo.stages / "uncut.onnx", "--json")
    assert done.json["nodes"]["Conv"] == 4
    done = stagekit("inspect", "--schema", "task")
    assert json.loads(done.out)["title"] == "TaskManifest"


def test_targets_lists_each_with_profiles_or_a_reason(stagekit: Run) -> None:
    rows = {r["name"]: r for r in stagekit("targets", "--json").json["targets"]}
    assert rows["onnxruntime"]["run"] is True
    assert "ort-f32" in rows["onnxruntime"]["profiles"]
    assert all(r["run"] or r["reason"] for r in rows.values())


def test_options_are_listed_once_each_under_their_headings() -> None:
    from click.testing import CliRunner

    from stagekit.cli.bench import SECTIONS, command

    text = CliRunner().invoke(command, ["--help"]).output
    found = [text.index(f"\n{heading}:\n") for heading in (*SECTIONS, "Options")]
    assert found == sorted(found)
    options = [p for p in command.params if isinstance(p, click.Option)]
    assert {name for names in SECTIONS.values() for name in names} < {p.name for p in options}
    assert all(len(re.findall(rf"^  (?:-\w, )?{p.opts[-1]}\b", text, re.MULTILINE)) == 1 for p in options)
