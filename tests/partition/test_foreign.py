"""Any ONNX file into stages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import stagekit
from stagekit.bundle import StagesManifest, read_manifest
from stagekit.errors import BundleError, GraphError, UsageError, VerificationFailed
from stagekit.graph import load as read
from stagekit.partition.foreign import partition_onnx, places
from stagekit.partition.from_onnx import Normalisation
from stagekit.partition.verify import BoundaryError, compare, run_file, verify

Save = Callable[..., Path]
SIZE = (12, 16)


def silent(_: str) -> None:
    pass


@pytest.fixture
def model(save_onnx: Save, tmp_path: Path) -> Path:
    return save_onnx(tmp_path / "residual.onnx")


def chain(folder: Path, frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The stages run one after the other; the last tensor."""
    values = [frames]
    for stage in read_manifest(folder, StagesManifest).stages:
        given = run_file(folder / stage.graph, values)
        values = [given[t.name] for t in stage.boundary.tensors]
    return values[0]


@pytest.mark.parametrize("cuts", [{"stages": 2}, {"stages": 3}, {"at": [["e"], ["h"]]}, {"at": [["c", "b"]]}], ids=str)
def test_the_chain_computes_what_the_file_does(model: Path, tmp_path: Path, cuts: dict[str, Any]) -> None:
    out = tmp_path / "out.stages"
    facts = partition_onnx(model, out, size=SIZE, **cuts)
    assert len(facts.stages) == cuts.get("stages", len(cuts.get("at", [])) + 1)
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    np.testing.assert_allclose(chain(out, images), run_file(model, [images])["scores"], rtol=1e-4, atol=1e-6)
    assert all(e.ok for e in verify(out, progress=silent))
    assert facts.frame.spec.shape == ("batch", 3, *SIZE)
    assert facts.frame.spec.layout == "NCHW"


def test_a_chain_may_end_before_the_file_does(model: Path, tmp_path: Path) -> None:
    facts = partition_onnx(model, tmp_path / "o.stages", at=[["e"]], until="f", size=SIZE)
    assert [s.boundary.name for s in facts.stages] == ["e", "f"]
    assert [c.tensor for c in places(model, SIZE, "f")[0]] == ["a", "b", "d", "e"]
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    proto = onnx.load(model)
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info("f"))
    onnx.save(proto, tmp_path / "with_f.onnx")
    np.testing.assert_allclose(
        chain(tmp_path / "o.stages", images), run_file(tmp_path / "with_f.onnx", [images])["f"], rtol=1e-4, atol=1e-6
    )
    assert partition_onnx(model, tmp_path / "p.stages", at=[["e"]], size=SIZE).backbone.id != facts.backbone.id
    with pytest.raises(GraphError, match="no tensor is called 'ff'; did you mean 'f'"):
        partition_onnx(model, tmp_path / "q.stages", at=[["e"]], until="ff", size=SIZE)


def test_the_function_of_the_package_puts_normalisation_in_front(model: Path, tmp_path: Path) -> None:
    facts = stagekit.partition(model, tmp_path / "o.stages", stages=2, size=SIZE, mean=(1, 2, 3), std=(4, 5, 6))
    assert facts.backbone.preprocessing == {"mean": (1, 2, 3), "std": (4, 5, 6)}
    assert facts.frame.spec.dtype == "uint8"
    with pytest.raises(UsageError, match="go together"):
        stagekit.partition(model, tmp_path / "p.stages", stages=2, size=SIZE, mean=(1, 2, 3))


def test_an_old_file_becomes_stages_in_a_newer_opset(save_onnx: Save, tmp_path: Path) -> None:
    old = save_onnx(tmp_path / "old.onnx", opset=12)
    partition_onnx(old, tmp_path / "o.stages", stages=2, size=SIZE)
    assert {read(path).model.opset_imports[""] for path in (tmp_path / "o.stages").glob("*.onnx")} == {18}
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    np.testing.assert_allclose(chain(tmp_path / "o.stages", images), run_file(old, [images])["scores"], rtol=1e-4)


def test_a_conversion_that_computes_something_else_is_not_used(
    save_onnx: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = save_onnx(tmp_path / "old.onnx", opset=12)
    wrong = save_onnx(tmp_path / "wrong.onnx", w3=np.ones((4, 5), np.float32))
    monkeypatch.setattr("stagekit.partition.foreign.modernised", lambda _: read(wrong))
    partition_onnx(old, tmp_path / "o.stages", stages=2, size=SIZE)
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    np.testing.assert_allclose(chain(tmp_path / "o.stages", images), run_file(old, [images])["scores"], rtol=1e-4)


def test_named_tensors_become_the_boundaries(model: Path, tmp_path: Path) -> None:
    facts = partition_onnx(model, tmp_path / "o.stages", at=[["c", " b"], ["f"]], size=SIZE)
    assert [[t.name for t in s.boundary.tensors] for s in facts.stages] == [["c", "b"], ["f"], ["scores"]]
    assert [s.boundary.name for s in facts.stages] == ["c", "f", "scores"]
    assert facts.stages[0].boundary.grid == SIZE
    assert facts.stages[1].boundary.spec.shape == ("batch", 4, 6, 8)


def test_stages_are_balanced_and_the_list_shows_where(model: Path, tmp_path: Path) -> None:
    found, total = places(model, SIZE)
    assert [c.tensor for c in found if c.tensor in "abcdefgh"][:2] == ["a", "b"]
    assert "c" not in [c.tensor for c in found]
    # MACs: 3 * 4 * 9 and 4 * 4 * 9 a pixel, a quarter of the latter at half the size, and the scores.
    pixels = SIZE[0] * SIZE[1]
    assert total == pixels * (108 + 144 + 36) + 20
    facts = partition_onnx(model, tmp_path / "o.stages", stages=2, size=SIZE)
    assert max(s.macs for s in facts.stages) == pixels * (144 + 36) + 20


def test_normalisation_goes_in_front_and_frames_are_bytes(model: Path, tmp_path: Path) -> None:
    normalisation = Normalisation((120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
    out = tmp_path / "o.stages"
    facts = partition_onnx(model, out, stages=2, size=SIZE, normalisation=normalisation)
    assert str(facts.frame.spec) == "frames: uint8 [batch x 12 x 16 x 3] NHWC"
    frames = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    image = (frames.astype(np.float32) - normalisation.mean) / normalisation.std
    expected = run_file(model, [image.transpose(0, 3, 1, 2).astype(np.float32)])["scores"]
    np.testing.assert_allclose(chain(out, frames), expected, rtol=1e-4, atol=1e-6)
    assert facts.backbone.preprocessing == {"mean": normalisation.mean, "std": normalisation.std}


@pytest.mark.parametrize("std", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (float("nan"), 1.0, 1.0), (float("inf"), 1.0, 1.0)])
def test_a_deviation_that_is_none(std: tuple[float, float, float]) -> None:
    with pytest.raises(UsageError, match="std"):
        Normalisation((0.0, 0.0, 0.0), std)


def test_normalisation_does_not_meet_a_tensor_of_the_same_name(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[N,3,4,6] image) => (float[N,4,4,6] y)
    { frames = Conv<pads = [1, 1, 1, 1]>(image, w1)  y = Relu(frames) }"""
    path = save_onnx(tmp_path / "m.onnx", text)
    facts = partition_onnx(
        path, tmp_path / "o.stages", at=[["frames"]], normalisation=Normalisation((0.0,) * 3, (255.0,) * 3)
    )
    assert facts.frame.spec.name != "frames"


def test_the_id_depends_on_file_cuts_and_normalisation_but_not_on_size(
    model: Path, save_onnx: Save, tmp_path: Path
) -> None:
    numbers = iter(range(99))

    def made(path: Path, **options: Any) -> str:
        return partition_onnx(path, tmp_path / f"{next(numbers)}.stages", **{"size": SIZE, **options}).backbone.id

    at_e = made(model, at=[["e"]])
    assert made(model, at=[["e"]]) == at_e
    assert made(model, at=[["e"]], size=(16, 20)) == at_e
    other = save_onnx(tmp_path / "other.onnx", w3=np.ones((4, 5), np.float32))
    normalisation = Normalisation((0.0,) * 3, (255.0,) * 3)
    assert len({at_e, made(model, at=[["h"]]), made(model, at=[["e"], ["h"]]), made(other, at=[["e"]]),
                made(model, at=[["e"]], normalisation=normalisation)}) == 5  # fmt: skip


def test_neither_or_both_ways_to_say_where(model: Path, tmp_path: Path) -> None:
    for options in ({}, {"at": [["e"]], "stages": 2}):
        with pytest.raises(UsageError, match="either --at TENSOR"):
            partition_onnx(model, tmp_path / "o.stages", size=SIZE, **options)


def test_an_open_size_must_be_given(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no fixed size") as raised:
        partition_onnx(model, tmp_path / "o.stages", stages=2)
    assert "--input" in str(raised.value)
    assert not (tmp_path / "o.stages").exists()


def test_a_fixed_size_stays(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[1,3,8,10] x) => (float[1,4,8,10] y)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)  b = Relu(a)  y = Conv<pads = [1, 1, 1, 1]>(b, w2) }"""
    path = save_onnx(tmp_path / "m.onnx", text)
    facts = partition_onnx(path, tmp_path / "o.stages", stages=2)
    assert facts.frame.spec.shape == ("batch", 3, 8, 10)
    assert facts.stages[-1].boundary.spec.shape == ("batch", 4, 8, 10)
    assert partition_onnx(path, tmp_path / "p.stages", stages=2, size=(8, 10)).backbone.id == facts.backbone.id
    with pytest.raises(UsageError, match=r"fixed to .* asks for"):
        partition_onnx(path, tmp_path / "o.stages", stages=2, size=(8, 12))


def test_a_batch_that_is_written_into_the_graph_stays(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[1,3,4,6] x) => (float[1,96] y)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)  b = Relu(a)  c = Reshape(b, s)  y = Neg(c) }"""
    path = save_onnx(tmp_path / "m.onnx", text, s=np.array([1, 96]))
    facts = partition_onnx(path, tmp_path / "o.stages", at=[["b"]])
    assert facts.frame.spec.shape == (1, 3, 4, 6)
    assert facts.stages[-1].boundary.spec.shape == (1, 96)
    assert all(e.ok for e in verify(tmp_path / "o.stages", progress=silent))


def test_images_with_channels_last(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[N,H,W,3] x) => (float[N,4,H,W] y)
    { t = Transpose<perm = [0, 3, 1, 2]>(x)  a = Conv<pads = [1, 1, 1, 1]>(t, w1)  b = Relu(a)  y = Neg(b) }"""
    path = save_onnx(tmp_path / "m.onnx", text)
    facts = partition_onnx(path, tmp_path / "o.stages", at=[["b"]], size=(8, 10))
    assert str(facts.frame.spec) == "x: float32 [batch x 8 x 10 x 3] NHWC"
    with pytest.raises(GraphError, match="--mean and --std need"):
        partition_onnx(
            path, tmp_path / "p.stages", at=[["b"]], size=(8, 10), normalisation=Normalisation((0.0,) * 3, (1.0,) * 3)
        )


@pytest.mark.parametrize(
    ("ends", "body"),
    [
        ("float[N,3,4,4] x, float[N,3,4,4] z) => (float[N,3,4,4] y", "y = Add(x, z)"),
        ("float[N,16] x) => (float[N,16] y", "y = Relu(x)"),
    ],
)
def test_what_takes_no_single_image(save_onnx: Save, tmp_path: Path, ends: str, body: str) -> None:
    path = save_onnx(tmp_path / "m.onnx", f"g ({ends}) {{ {body} }}")
    with pytest.raises(GraphError, match="expected one input of four dimensions"):
        partition_onnx(path, tmp_path / "o.stages", stages=2, size=(4, 4))


def test_an_open_channel_dimension(save_onnx: Save, tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "m.onnx", "g (float[N,C,5,5] x) => (float[N,C,5,5] y) { y = Relu(x) }")
    with pytest.raises(UsageError, match="open channel"):
        partition_onnx(path, tmp_path / "o.stages", stages=2)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        ([["c"]], "also crossed by b"),
        ([["relu"]], "no tensor is called 'relu'"),
        ([["h"], ["e"]], "lies before"),
        ([[""]], "no tensor"),
    ],
)
def test_a_cut_that_cannot_be(model: Path, tmp_path: Path, at: list[list[str]], words: str) -> None:
    with pytest.raises(GraphError, match=words):
        partition_onnx(model, tmp_path / "o.stages", at=at, size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == [model.name]


def test_more_stages_than_there_are_places(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="9 stages need 8 of the tensors"):
        partition_onnx(model, tmp_path / "o.stages", stages=9, size=SIZE)


def test_a_model_in_half_is_cut_and_compared_in_half(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float16[N,3,12,16] x) => (float16[N,4,12,16] c)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)  b = Relu(a)  c = Conv<pads = [1, 1, 1, 1]>(b, w2) }"""
    generator = np.random.default_rng(1)
    weights = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3)}
    halves = {name: generator.normal(0, 0.5, shape).astype(np.float16) for name, shape in weights.items()}
    path = save_onnx(tmp_path / "m.onnx", text, **halves)
    facts = partition_onnx(path, tmp_path / "o.stages", at=[["b"]])
    assert 1e-4 < facts.export_error < 2e-3  # type: ignore[operator]  # of the order of a rounding to half
    assert all(e.ok for e in verify(tmp_path / "o.stages", progress=silent))


def test_a_file_of_the_first_opsets_is_cut(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[N,3,H,W] x) => (float[N,4,H,W] scores)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)  b = BatchNormalization(a, m, m, m, m)  c = Relu(b)
      scores = Conv<pads = [1, 1, 1, 1]>(c, w2) }"""
    path = save_onnx(tmp_path / "m.onnx", text, opset=7, m=np.array([0.5, 1, 1.5, 2], np.float32))
    proto = onnx.load(path)
    proto.ir_version = 3
    weights = [onnx.helper.make_tensor_value_info(w.name, w.data_type, w.dims) for w in proto.graph.initializer]
    proto.graph.input.extend(weights)
    onnx.save(proto, path)
    partition_onnx(path, tmp_path / "o.stages", stages=2, size=SIZE)
    images = np.random.default_rng(0).normal(size=(2, 3, *SIZE)).astype(np.float32)
    np.testing.assert_allclose(
        chain(tmp_path / "o.stages", images), run_file(path, [images])["scores"], rtol=1e-4, atol=1e-6
    )


def test_a_size_that_the_model_cannot_take(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[N,3,H,W] x) => (float[N,5] y)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)  b = Relu(a)  c = Flatten(b)  y = Gemm(c, big) }"""
    path = save_onnx(tmp_path / "m.onnx", text, big=np.ones((4 * 8 * 8, 5), np.float32))
    assert partition_onnx(path, tmp_path / "o.stages", at=[["b"]], size=(8, 8)).stages
    with pytest.raises(GraphError, match="do not fit together"):
        partition_onnx(path, tmp_path / "p.stages", at=[["b"]], size=(8, 9))


def test_file_names_that_manifests_would_not_take(save_onnx: Save, tmp_path: Path) -> None:
    path = save_onnx(tmp_path / "my model (2).onnx")
    facts = partition_onnx(path, tmp_path / "my model (2).stages", at=[["e"]], size=SIZE)
    assert facts.name == "my-model-2"
    assert read_manifest(tmp_path / "my model (2).stages", StagesManifest) == facts


def test_external_weights_and_a_label_map_as_output(save_onnx: Save, tmp_path: Path) -> None:
    text = """g (float[N,3,H,W] x) => (int64[N,H,W] y)
    { a = Conv<pads = [1, 1, 1, 1]>(x, w1)  b = Relu(a)  c = Conv<pads = [1, 1, 1, 1]>(b, w2)
      y = ArgMax<axis = 1, keepdims = 0>(c) }"""
    plain = save_onnx(tmp_path / "plain.onnx", text)
    (tmp_path / "external").mkdir()
    path = tmp_path / "external" / "m.onnx"
    onnx.save_model(onnx.load(plain), path, save_as_external_data=True, location="m.data", size_threshold=0)
    made = [partition_onnx(p, tmp_path / f"{p.stem}.stages", stages=2, size=SIZE) for p in (plain, path)]
    assert made[0].backbone.id == made[1].backbone.id
    assert [s.fingerprint for s in made[0].stages] == [s.fingerprint for s in made[1].stages]
    assert all(e.ok for e in verify(tmp_path / "m.stages", progress=silent))


def test_a_simplified_graph_that_computes_something_else_is_not_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stagekit.partition import foreign

    true_run = foreign.run_graph

    def wrong(*args: Any) -> dict[str, np.ndarray[Any, Any]]:
        return {name: value * 1.001 for name, value in true_run(*args).items()}

    monkeypatch.setattr(foreign, "run_graph", wrong)
    with pytest.raises(VerificationFailed, match="differs from its source"):
        partition_onnx(model, tmp_path / "o.stages", stages=2, size=SIZE)
    assert [p.name for p in tmp_path.iterdir()] == [model.name]


def test_something_else_at_the_destination_stays(model: Path, tmp_path: Path) -> None:
    (tmp_path / "o.stages").mkdir()
    (tmp_path / "o.stages" / "photo").touch()
    with pytest.raises(BundleError, match="not be overwritten"):
        partition_onnx(model, tmp_path / "o.stages", stages=2, size=SIZE)


@pytest.mark.parametrize(
    ("given", "expected", "relative", "ok"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0, True),
        ([1.0, 2.00001], [1.0, 2.0], 5e-6, True),
        ([1.0, 2.1], [1.0, 2.0], 0.05, False),
        ([2e-5, 0.0], [2e-5, 2e-7], 2e-7, True),  # a rounding of 1
        ([2e-5, 0.0], [1e-5, 0.0], 1.0, False),
        ([float("nan"), 1.0], [1.0, 1.0], None, False),
        ([0.0], [0.0], 0.0, True),
        ([0.0, 0.0], [0.0], None, False),
    ],
)
def test_errors_are_relative_to_the_largest_value(
    given: list[float], expected: list[float], relative: float | None, ok: bool
) -> None:
    error = compare("b", "t", np.array(given, np.float32), np.array(expected, np.float32))
    assert error.ok is ok
    if relative is not None:
        assert error.relative == pytest.approx(relative, rel=0.05, abs=1e-9)


@pytest.mark.parametrize(("dtype", "ok"), [(np.float16, True), (np.float32, False)])
def test_tensors_in_half_may_differ_by_roundings_of_half(dtype: type, ok: bool) -> None:
    expected = np.array([1.0, 2.0], dtype)
    assert compare("b", "t", expected * dtype(1.001), expected).ok is ok
    assert not compare("b", "t", expected * dtype(1.02), expected).ok


def test_of_labels_the_share_that_differs_counts() -> None:
    expected = np.zeros((10, 20), np.int64)
    given = expected.copy()
    given[0, :2] = 7
    assert compare("b", "t", given, expected) == BoundaryError("b", "t", 0.01, finite=True, dtype="int64")


def test_the_command_line_partitions_lists_and_verifies(
    model: Path, tmp_path: Path, stagekit: Callable[..., Any]
) -> None:
    listed = stagekit("partition", model, "--input", "12x16", "--list", "--json")
    assert listed.code == 0
    assert "e" in [p["tensor"] for p in listed.json["places"]]
    out = tmp_path / "o.stages"
    assert stagekit("partition", model, "--input", "12x16", "--at", "c,b", "-o", out).code == 0
    verified = stagekit("verify", out, "--json")
    assert verified.code == 0
    assert [b["boundary"] for b in verified.json["boundaries"]] == ["c", "c", "scores"]


def test_the_command_line_says_what_is_wrong(model: Path, tmp_path: Path, stagekit: Callable[..., Any]) -> None:
    out = tmp_path / "o.stages"
    assert stagekit("partition", model, "--stages", "2", "-o", out).code == 2
    assert stagekit("partition", tmp_path / "gone.onnx", "--stages", "2", "-o", out).code == 4
    assert stagekit("partition", model, "--input", "12x16", "--at", "c", "-o", out).code == 4
    model.write_bytes(model.read_bytes()[:-99])
    result = stagekit("partition", model, "--stages", "2", "-o", out, "--json")
    assert result.code == 4
    assert json.loads(result.out)["error"] == "GraphError"
    assert not out.exists()
