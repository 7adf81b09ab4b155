"""The target from a Q/DQ graph to a running engine, its report and its memory images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stagekit_fixedpoint import FixedPointTarget, reference
from stagekit_fixedpoint.arithmetic import Format, Requantize, Rescale
from stagekit_fixedpoint.device import FOLDER, load_device
from stagekit_fixedpoint.engine import from_stored, to_stored
from stagekit_fixedpoint.export import export
from stagekit_fixedpoint.files import from_json
from stagekit_fixedpoint.observe import observe, real_name
from stagekit_fixedpoint.program import Linear, Program, Tensor
from stagekit_fixedpoint.report import report, roofline
from stagekit_fixedpoint.target import load_program

from stagekit import targets
from stagekit.build.engines import Builder
from stagekit.errors import CompileError, EngineError, UsageError
from stagekit.graph import Graph, Quantization, TensorSpec
from stagekit.store import Store
from stagekit.target import EngineBlob, HostBuffer, silent

from .conftest import codes
from .nets import NETS, inputs, qdq

PROFILE = replace(targets.load_profile("dpu-b4096-zcu104", "fixedpoint"), batch=(1, 3))
Graphs = Callable[[str, str], Graph]
Programs = Callable[[str, str], Program]


@pytest.fixture
def compiled(graphs: Graphs, tmp_path: Path) -> EngineBlob:
    graph = graphs("residual", PROFILE.device)
    folder = tmp_path / "engine"
    folder.mkdir()
    return FixedPointTarget().compile(graph, graph.inputs, floats(graph.outputs), PROFILE, folder, silent)


def floats(specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    return [replace(spec, dtype="float32") for spec in specs]


def test_an_engine_gives_what_the_reference_gives(compiled: EngineBlob, programs: Programs) -> None:
    program = programs("residual", PROFILE.device)
    engine = FixedPointTarget().load(compiled, PROFILE)
    for batch in (1, 3):
        x = inputs(NETS["residual"](), batch, 5)["x"]
        (found,) = engine.lane().submit([HostBuffer(replace(engine.inputs[0], shape=x.shape), x)], batch).wait()
        stored = to_stored(x, program.tensors["x"]).astype(np.int64)
        (out,) = program.outputs
        wanted = from_stored(reference.run(program, {"x": stored})[out], program.tensors[out], True)
        assert found.spec == engine.outputs[0].bind(batch=batch)
        assert np.array_equal(found.to_host(), wanted)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.lane()


def test_an_edge_may_be_integers_with_their_scale(graphs: Graphs, programs: Programs, tmp_path: Path) -> None:
    graph, program = graphs("residual", PROFILE.device), programs("residual", PROFILE.device)
    tensor, target = program.tensors["x"], FixedPointTarget()
    marked = replace(graph.inputs[0], quantization=Quantization((tensor.scale,), (0,)))
    plain, stored = target.boundaries(marked, PROFILE)
    assert (plain.dtype, stored.dtype) == ("float32", "int8")
    blob = target.compile(graph, [stored], graph.outputs, PROFILE, tmp_path, silent)
    x = codes(program, 1)["x"].astype(np.int8)
    buffer = HostBuffer(replace(stored, shape=x.shape), x)
    (found,) = target.load(blob, PROFILE).lane().submit([buffer], 1).wait()
    (out,) = program.outputs
    wanted = reference.run(program, {"x": x.astype(np.int64)})[out]
    assert found.spec.dtype == "int8"
    assert np.array_equal(found.to_host(), wanted)
    wrong = replace(stored, quantization=Quantization((tensor.scale * 2,), (0,)))
    with pytest.raises(CompileError, match="the graph has"):
        target.compile(graph, [wrong], graph.outputs, PROFILE, tmp_path, silent)


def test_compiling_twice_gives_the_same_bytes(graphs: Graphs, tmp_path: Path) -> None:
    graph, contents = graphs("transformer", PROFILE.device), []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        blob = FixedPointTarget().compile(graph, graph.inputs, graph.outputs, PROFILE, tmp_path / name, silent)
        contents.append([(blob.root / f).read_bytes() for f in blob.files])
    assert contents[0] == contents[1]


@pytest.mark.parametrize("name", ["program.json", "arrays.npz"])
def test_damaged_engines_are_refused(compiled: EngineBlob, name: str) -> None:
    path = compiled.root / name
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(EngineError, match=r"expected .* bytes"):
        FixedPointTarget().load(compiled, PROFILE)
    sizes = [(compiled.root / f).stat().st_size for f in compiled.files]
    forged = replace(compiled, metadata={**compiled.metadata, "bytes": sizes})
    with pytest.raises(EngineError, match="damaged"):
        FixedPointTarget().load(forged, PROFILE)


def test_an_engine_for_another_device_is_refused(compiled: EngineBlob) -> None:
    other = targets.load_profile("dpu-b1600-ultra96", "fixedpoint")
    with pytest.raises(EngineError, match="made with device 'dpu-b4096-zcu104'"):
        FixedPointTarget().load(compiled, other)


def test_a_wrong_call_is_named(compiled: EngineBlob) -> None:
    engine = FixedPointTarget().load(compiled, PROFILE)
    spec = TensorSpec("x", "float32", (2, 8, 32, 24))
    with pytest.raises(UsageError, match="batches of 1, 3"):
        engine.lane().submit([HostBuffer(spec, np.zeros(spec.shape, np.float32))], 2)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected float32"):
        engine.lane().submit([HostBuffer(spec, np.zeros(spec.shape, np.float32))], 1)  # type: ignore[arg-type]


def test_the_report_says_what_it_is_and_adds_up(compiled: EngineBlob, programs: Programs) -> None:
    data = json.loads(json.dumps(dict(compiled.report)))
    assert data["label"] == "modelled for dpu-b4096-zcu104"
    assert data["macs"] == sum(row["macs"] for row in data["layers"])
    conv = next(row for row in data["layers"] if row["operator"] == "Convolution")
    assert conv["headroom_bits"] > 0
    assert (conv["format_in"], conv["format_out"]) == ("int8", "int8")
    assert 1000 / data["latency_ms"] == pytest.approx(data["fps_single"])


def test_noise_is_observed_against_the_real_tensors(programs: Programs) -> None:
    program = programs("residual", PROFILE.device)
    (out,) = program.outputs
    given = codes(program)
    tensor = program.tensors[out]
    real = reference.run(program, given)[out] * tensor.scale
    values, seen = observe(program, given, {real_name(out): real + tensor.scale})
    assert np.array_equal(values[out], reference.run(program, given)[out])
    assert seen[-1].sqnr_db == pytest.approx(10 * np.log10(((real + tensor.scale) ** 2).mean() / tensor.scale**2))
    assert seen[0].sqnr_db is None


def test_values_that_leave_the_format_are_saturated_and_those_that_a_relu_cuts_are_not() -> None:
    stage = Requantize(Rescale((1,), (1,), "floor", "shift"), Format(8), 0, 0, 127)
    x, y = Tensor("x", (4,), Format(8), 1.0), Tensor("y", (4,), Format(8), 2.0)
    step = Linear("l", ("x",), "y", "w", "b", stage)
    program = Program(
        "d", ("x",), ("y",), {"x": x, "y": y}, (step,), {"w": np.eye(4, dtype=int) * 4, "b": np.zeros(4, int)}
    )
    # 2 x: 254 leaves int8, 126 and 0 do not, and -200 is cut by the ReLU.
    _, (seen,) = observe(program, {"x": np.array([[127, 63, 0, -100]])}, {})
    assert seen.saturated == 0.25


def test_the_roofline_has_a_line_for_each_product(programs: Programs) -> None:
    device = load_device("dpu-b4096-zcu104")
    lines = roofline(report(programs("residual", PROFILE.device), device), device).splitlines()
    assert lines[0].startswith("modelled for dpu-b4096-zcu104: peak 1229 GOP/s")
    assert len(lines) == 1 + 5


def test_a_changed_description_of_ones_own_is_another_engine_and_runs_without_it(tmp_path: Path) -> None:
    file, graph = tmp_path / "own.toml", qdq(NETS["residual"](), load_device(PROFILE.device))
    text = (FOLDER / f"{PROFILE.device}.toml").read_text()
    own = replace(PROFILE, options={**PROFILE.options, "device_file": str(file)})
    builder = Builder(FixedPointTarget(), own, Store(tmp_path / "store"))
    keys = []
    for rounding in ("half_up", "half_even", "half_up"):
        file.write_text(text.replace('rounding = "half_up"', f'rounding = "{rounding}"'))
        keys.append(builder.key(graph, graph.inputs, graph.outputs))
    assert keys[0] == keys[2] != keys[1]
    blob = builder.build("net", graph).blob
    file.unlink()
    builder.target.load(blob, own).close()


def test_memory_images_replay_each_layer(programs: Programs, tmp_path: Path) -> None:
    program = programs("transformer", "tflite-int8")
    files = export(program, tmp_path, reference.run(program, codes(program), keep=True))
    assert len(files) == 2 + len(program.steps)
    again = from_json(files[0].read_text(), dict(np.load(files[1], allow_pickle=False)))
    for step, path in zip(again.steps, files[2:], strict=True):
        with np.load(path, allow_pickle=False) as vectors:
            values = {n: vectors[f"input{i}"].astype(np.int64) for i, n in enumerate(step.inputs)}
            assert np.array_equal(reference.evaluate(again, step, values), vectors["output"])


def test_files_are_all_an_engine_needs(compiled: EngineBlob, programs: Programs) -> None:
    program = load_program(compiled.root)
    assert program.steps == programs("residual", PROFILE.device).steps
