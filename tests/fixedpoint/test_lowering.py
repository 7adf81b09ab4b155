"""Lowering: what a program is for each graph, and what is said of graphs that do not fit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
from stagekit_fixedpoint import reference
from stagekit_fixedpoint.device import Device, load_device
from stagekit_fixedpoint.engine import from_stored, to_stored
from stagekit_fixedpoint.files import from_json, pack_arrays, to_json
from stagekit_fixedpoint.lowering import lower, lowered
from stagekit_fixedpoint.program import Program

from stagekit.errors import CompileError
from stagekit.graph import Graph
from stagekit.partition.verify import run_graph

from .nets import NETS, Net, inputs, qdq

Programs = Callable[[str, str], Program]


def kinds(program: Program) -> Counter[str]:
    return Counter(type(s).__name__ for s in program.steps)


def test_activations_and_biases_are_folded(programs: Programs) -> None:
    found = kinds(programs("residual", "dpu-b4096-zcu104"))
    assert found == {"Convolution": 4, "MaxPool": 1, "Add": 1, "SumPool": 2, "Reshape": 1, "Linear": 1}


def test_normalisation_of_bytes_is_one_table_for_each_channel(programs: Programs) -> None:
    program = programs("stem", "dpu-b4096-zcu104")
    assert [type(s).__name__ for s in program.steps] == ["Transpose", "Lookup", "Convolution"]
    (table,) = (v for k, v in program.arrays.items() if k.endswith("table"))
    assert table.shape == (3, 256)


def test_a_transformer_unit_is_integers_throughout(programs: Programs) -> None:
    found = kinds(programs("transformer", "dpu-b4096-zcu104"))
    assert (found["LayerNorm"], found["Softmax"], found["Product"], found["Lookup"]) == (2, 1, 2, 1)


@pytest.mark.parametrize(
    ("net", "device", "least_db"),
    [
        ("residual", "dpu-b4096-zcu104", 25),
        ("pyramid", "dpu-b4096-zcu104", 25),
        ("transformer", "dpu-b4096-zcu104", 22),
        ("stem", "dpu-b4096-zcu104", 28),
        ("residual", "tflite-int8", 25),
        ("transformer", "tflite-int8", 25),
        ("residual", "nvdla-512", 25),
        ("residual", "hls-16-6", 45),
        ("transformer", "hls-16-6", 40),
    ],
)
def test_integers_stay_near_the_float_model(programs: Programs, net: str, device: str, least_db: float) -> None:
    program, graph = programs(net, device), NETS[net]()
    sample = inputs(graph, 2, 1)
    session = onnxruntime.InferenceSession(graph.proto().SerializeToString(), providers=["CPUExecutionProvider"])
    real = session.run(None, sample)[0]
    (name,), (out,) = program.inputs, program.outputs
    stored = to_stored(sample["x"], program.tensors[name]).astype(np.int64)
    found = from_stored(reference.run(program, {name: stored})[out], program.tensors[out], True)
    assert 10 * np.log10((real**2).mean() / ((found - real) ** 2).mean()) > least_db


def test_truncation_takes_nothing_away_on_average() -> None:
    """Cutting bits off would lose half a step on average; the bias makes up for it."""
    net, device = Net(6), load_device("hls-16-6")
    net.conv("x", 8, 16, 3, out="y")
    graph = net.graph([8, 24, 24], ["y"])
    program, sample = lowered(qdq(graph, device), device).program, inputs(graph, 2, 1)
    stored = to_stored(sample["x"], program.tensors["x"]).astype(np.int64)
    found = reference.run(program, {"x": stored})["y"] * program.tensors["y"].scale
    error = (found - run_graph(graph, [sample["x"]])["y"]) / program.tensors["y"].scale
    assert error.size > 10_000
    assert abs(error.mean()) < 0.1


def test_a_program_survives_its_own_files(programs: Programs) -> None:
    import io

    program = programs("transformer", "tflite-int8")
    packed = pack_arrays(program.arrays)
    assert packed == pack_arrays(program.arrays)
    with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
        again = from_json(to_json(program), {n: archive[n] for n in archive.files})
    assert again.steps == program.steps
    assert again.tensors == dict(program.tensors)
    assert all(np.array_equal(again.arrays[n], a) for n, a in program.arrays.items())


def refusals(graph: Graph, device: Device) -> str:
    with pytest.raises(CompileError) as caught:
        lowered(graph, device)
    return str(caught.value)


def test_a_float_graph_is_told_to_calibrate(dpu: Device) -> None:
    message = refusals(NETS["residual"](), dpu)
    assert "calibrate" in message
    assert "conv0" in message


def test_what_a_device_cannot_do_is_named(graphs: Callable[[str, str], Graph]) -> None:
    problems = lower(qdq(NETS["transformer"](), load_device("nvdla-512")), load_device("nvdla-512")).problems
    assert [(u.node, u.op) for u in problems] == [("layernormalization0", "LayerNormalization")]
    assert problems[0].why == "nvdla-512 has no unit for layer norm"


def test_the_share_on_the_device_counts_what_was_left_out(dpu: Device) -> None:
    graph = qdq(NETS["residual"](), dpu)
    assert lower(graph, dpu).share == 1.0
    without = replace(dpu, arithmetic=replace(dpu.arithmetic, operators=("conv", "depthwise", "max_pool")))
    assert 0 < lower(graph, without).share < 1


def one_conv(dpu: Device, channels: int, scale_of_weights: float = 1.0) -> Graph:
    net = Net(5)
    weight = np.full((1, channels, 3, 3), scale_of_weights, np.float32)
    net.op("Conv", "x", net.weight(weight), out="y", pads=[1, 1, 1, 1])
    graph = net.graph([channels, 4, 4], ["y"])
    return qdq(graph, dpu)


def test_an_accumulator_that_can_overflow_is_proved_with_the_bits_missing(dpu: Device) -> None:
    narrow = replace(dpu, arithmetic=replace(dpu.arithmetic, accumulator_bits=18))
    message = refusals(one_conv(dpu, 64), narrow)
    # 64 x 9 terms of 64 x [-128, 127] (1.0 is 64 at the scale 2**-6), which is [-4718592, 4681728].
    assert "y (Conv)" in message
    assert "[-4718592, 4681728]" in message
    assert "needs 24 bits" in message
    assert "6 missing" in message
    assert not lower(one_conv(dpu, 64), replace(dpu, arithmetic=replace(dpu.arithmetic, accumulator_bits=24))).problems


@pytest.mark.parametrize(
    ("scale", "says"), [(0.0, "must be positive"), (np.inf, "must be positive"), (0.3, "no power of two")]
)
def test_scales_off_the_grid_are_errors(dpu: Device, scale: float, says: str) -> None:
    graph = qdq(NETS["residual"](), dpu)
    model = graph.edit()
    import onnx_ir as ir

    value = model.graph.initializers["relu1/scale"]
    value.const_value = ir.tensor(np.array(scale, np.float32), name="relu1/scale")
    message = refusals(graph.with_model(model), dpu)
    assert says in message
    assert "relu1" in message


def test_zero_points_are_refused_where_there_are_none(dpu: Device) -> None:
    graph = qdq(NETS["residual"](), load_device("tflite-int8"))
    loose = replace(dpu, arithmetic=replace(dpu.arithmetic, scales="any", style="single", per_channel=True))
    assert "zero point" in refusals(graph, loose)


def test_the_wrong_width_is_refused(dpu: Device) -> None:
    assert "int16" in refusals(qdq(NETS["residual"](), load_device("hls-16-6")), dpu)
