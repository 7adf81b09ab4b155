"""Several graphs over one weight file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from stagekit.graph import Graph, load
from stagekit.graph.weights import ALIGNMENT, INLINE_BELOW, save_together
from stagekit.partition.verify import run_file, run_graph

Build = Callable[..., Graph]
RNG = np.random.default_rng(0)
BIG, OTHER = (RNG.normal(size=(20, 20)).astype(np.float32) for _ in range(2))
SMALL = np.arange(20, dtype=np.float32)

MATMUL = "g (float[N,20] x) => (float[N,20] y) { a = MatMul(x, u)  b = MatMul(a, v)  y = Add(b, s) }"


def test_each_distinct_weight_is_stored_once_on_a_page_of_its_own(build: Build, tmp_path: Path) -> None:
    graphs = {
        "one.onnx": build(MATMUL, {"u": BIG, "v": OTHER, "s": SMALL}),
        "two.onnx": build(MATMUL, {"u": OTHER.copy(), "v": OTHER, "s": SMALL}),
    }
    save_together(graphs, tmp_path, "w.bin")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.onnx", "two.onnx", "w.bin"]
    content = (tmp_path / "w.bin").read_bytes()
    assert len(content) == ALIGNMENT + OTHER.nbytes
    assert content[: BIG.nbytes] == BIG.tobytes()
    assert content[ALIGNMENT:] == OTHER.tobytes()
    places = {
        name: {e.key: e.value for e in t.external_data}
        for t in onnx.load(tmp_path / "two.onnx", load_external_data=False).graph.initializer
        for name in [t.name]
    }
    assert places["u"] == places["v"] == {"location": "w.bin", "offset": str(ALIGNMENT), "length": str(OTHER.nbytes)}
    assert places["s"] == {}
    assert SMALL.nbytes < INLINE_BELOW


def test_what_is_read_back_is_the_same_graph_and_runs(build: Build, tmp_path: Path) -> None:
    graph = build(MATMUL, {"u": BIG, "v": OTHER, "s": SMALL})
    save_together({"g.onnx": graph}, tmp_path, "w.bin")
    assert load(tmp_path / "g.onnx").fingerprint == graph.fingerprint
    x = RNG.normal(size=(2, 20)).astype(np.float32)
    np.testing.assert_allclose(run_file(tmp_path / "g.onnx", [x])["y"], (x @ BIG) @ OTHER + SMALL, rtol=1e-4, atol=1e-4)


def test_equal_bytes_of_different_type_share_a_place_and_stay_different(build: Build, tmp_path: Path) -> None:
    text = "g (float[N,20] x) => (float[N,20] y, int32[20,20] z) { y = MatMul(x, u)  z = Abs(i) }"
    graph = build(text, {"u": BIG, "i": BIG.view(np.int32)})
    save_together({"g.onnx": graph}, tmp_path, "w.bin")
    assert (tmp_path / "w.bin").stat().st_size == BIG.nbytes
    assert load(tmp_path / "g.onnx").fingerprint == graph.fingerprint


def test_graphs_with_external_weights_move_to_the_new_folder_whole(build: Build, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    proto = build(MATMUL, {"u": BIG, "v": OTHER, "s": SMALL}).proto()
    onnx.save_model(proto, source / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    graph = load(source / "m.onnx")
    target = tmp_path / "target"
    target.mkdir()
    save_together({"g.onnx": graph}, target, "w.bin")
    before = graph.fingerprint
    for file in source.iterdir():
        file.unlink()
    assert load(target / "g.onnx").fingerprint == before
    x = RNG.normal(size=(2, 20)).astype(np.float32)
    assert run_graph(load(target / "g.onnx"), [x])["y"].shape == (2, 20)


def test_narrow_types_and_strings_come_back(tmp_path: Path) -> None:
    tensors = {
        "int4": ir.tensor(RNG.integers(-8, 8, (50, 51)).astype(ml_dtypes.int4)),
        "bfloat16": ir.tensor(RNG.normal(size=(40, 40)).astype(ml_dtypes.bfloat16)),
        "strings": ir.StringTensor([b"%d" % i * 9 for i in range(400)], shape=ir.Shape([400]), name="strings"),
    }
    values = [ir.Value(name=name, const_value=t) for name, t in tensors.items()]
    nodes = [ir.node("Shape", [v], name=f"shape of {v.name}") for v in values]
    for node, value in zip(nodes, values, strict=True):
        out = node.outputs[0]
        out.name, out.type = f"{value.name}/shape", ir.TensorType(ir.DataType.INT64)
        out.shape = ir.Shape([len(tensors[str(value.name)].shape)])
    body = ir.Graph(
        [], [n.outputs[0] for n in nodes], nodes=nodes, initializers=values, opset_imports={"": 21}, name="g"
    )
    graph = Graph(ir.Model(body, ir_version=10))
    save_together({"g.onnx": graph}, tmp_path, "w.bin")
    back = load(tmp_path / "g.onnx")
    assert back.tensor_hashes == graph.tensor_hashes
    assert back.fingerprint == graph.fingerprint
