"""What integers cost, where they hurt, and what a task that nobody calibrated for does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from stagekit_calib.accuracy import evaluate
from stagekit_calib.audit import audit, saturation
from stagekit_calib.chain import OrtGraph, open_chain
from stagekit_calib.readers import from_iterable, from_path
from stagekit_calib.run import calibrate
from stagekit_calib.sensitivity import LayerDamage, rank_layers, rank_tensors, smallest_float_set, with_kept

from stagekit.data.folder import Folder
from stagekit.errors import DatasetError
from stagekit.graph import Graph, from_proto
from stagekit.quant.error import sqnr
from stagekit.quant.formats import NumberFormat, dequantise, quantise
from stagekit.quant.qdq import with_integer_edges
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages
from stagekit.target import HostBuffer, silent
from stagekit.targets import get, load_profile

SCHEME = QuantScheme(NumberFormat("uint8", symmetric=False), bias="int32")


def test_integers_lose_little_and_coarse_ranges_lose_much(zoo: Any, labelled: Folder) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record = calibrate(chain, from_path(labelled.root), "minmax")
    stems = labelled.stems("val")
    exact = evaluate(chain, labelled, stems)["land"]
    integers = evaluate(chain.quantised(quantise_stages(chain.stages, record, SCHEME)), labelled, stems)["land"]
    narrow = replace(record, method="percentile:60")
    cut = evaluate(chain.quantised(quantise_stages(chain.stages, narrow, SCHEME)), labelled, stems)["land"]
    assert exact == 1.0
    assert 0.9 < integers <= 1.0
    assert cut < integers - 0.1


def test_a_data_set_with_other_classes_is_refused(zoo: Any, labelled: Folder) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["sea"]])
    with pytest.raises(DatasetError, match="not those of the task 'sea'"):
        evaluate(chain, labelled, labelled.stems("val"))


def test_an_audit_finds_what_a_new_task_pushes_out_of_range(zoo: Any, pictures: Path) -> None:
    dim = from_iterable([image // 3 + 85 for _, image in from_path(pictures)])
    plain = calibrate(open_chain(zoo.stages), dim, "minmax")
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record, tensors = audit(plain, chain, from_path(pictures), SCHEME)
    finding = record.audits[0]
    assert finding.worst == tensors[0].share > 0.01
    assert finding.drop is None
    prompted = next(t for t in tensors if t.tensor == "stem")
    seen = calibrate(chain, from_path(pictures), "minmax")
    (hashed,) = [h for h, place in seen.places.items() if place == ("stem", "stem")]
    known = plain.statistics[hashed]
    assert prompted.share == pytest.approx(seen.statistics[hashed].share_outside(0, known.maximum), abs=0.01)


def test_a_record_never_saturates_on_its_own_extremes(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record = calibrate(chain, from_path(pictures), "minmax")
    assert all(s.share == 0 for s in saturation(record, record, SCHEME, chain.stages))


def test_an_audit_looks_at_what_the_format_stores_alone(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages, [zoo.tasks["land"]])
    record = calibrate(chain, from_path(pictures), "minmax")
    looked_at = {s.stage for s in saturation(record, record, SCHEME, chain.stages)}
    assert looked_at == {"stem", "stage1", "stage2"}
    kept = saturation(replace(record, keep_float=("*",)), record, SCHEME, chain.stages)
    assert kept == []


def test_layers_are_ranked_by_the_damage_that_each_does_alone(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages)
    record = calibrate(chain, from_path(pictures), "minmax")
    # Ranges a hundred times too wide for what one layer reads: it must come first.
    target = next(h for h, place in record.places.items() if place[0] == "stage2" and place[1] != "stage2")
    s = record.statistics[target]
    spoilt = replace(s, minimum=100 * s.minimum, maximum=100 * s.maximum)
    record = replace(record, statistics={**record.statistics, target: spoilt})
    ranked = rank_layers(chain, record, SCHEME, from_path(pictures), count=2)
    assert len(ranked) == 4
    assert ranked[0].node.startswith("stage2/")
    assert ranked[0].decibels < ranked[1].decibels - 10
    assert sum(d.macs for d in ranked) == sum(s.macs for s in chain.manifest.stages)


def test_the_smallest_float_set_is_found_and_every_trial_kept() -> None:
    ranked = [LayerDamage(f"s/n{i}", "Conv", 1, float(i)) for i in range(20)]
    kept, trials = smallest_float_set(ranked, lambda k: 3.0 - 0.25 * len(k), limit=0.5)
    assert kept == tuple(f"s/n{i}" for i in range(10))
    assert [len(t.keep_float) for t in trials] == [0, 1, 2, 4, 8, 16, 12, 10, 9]
    assert all(t.drop == 3.0 - 0.25 * len(t.keep_float) for t in trials)
    assert [t.integer_share for t in trials][:3] == [1.0, 0.95, 0.9]
    assert smallest_float_set(ranked, lambda k: 0.1, limit=0.5)[0] == ()


def test_of_layers_that_hurt_alike_the_cheaper_one_stays_in_floats() -> None:
    ranked = [LayerDamage("s/large", "Conv", 100, 20.0), LayerDamage("s/small", "Conv", 10, 20.1)]
    kept, trials = smallest_float_set(ranked, lambda k: 1.0 - len(k), limit=0.5)
    assert kept == ("s/small",)
    assert trials[-1].integer_share == pytest.approx(100 / 110)


def test_layers_kept_in_floats_leave_the_integers(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages)
    record = calibrate(chain, from_path(pictures))
    everything = quantise_stages(chain.stages, record, SCHEME)
    without = quantise_stages(chain.stages, with_kept(record, ["stage1/*"]), SCHEME)
    assert everything.integer_share == 1
    assert without.integer_share == pytest.approx(
        1 - chain.manifest.stages[1].macs / sum(s.macs for s in chain.manifest.stages)
    )
    assert set(everything.edges) - set(without.edges) == {"stage1"}
    assert np.isclose(everything.edges["stem"][1].scale[0], without.edges["stem"][1].scale[0])


def _by_orts_target(graph: Graph, x: Any, folder: Path) -> Any:
    target, profile = get("onnxruntime"), load_profile("ort-int8")
    blob = target.compile(graph, graph.inputs, graph.outputs, profile, folder, silent)
    engine = target.load(blob, profile)
    (output,) = engine.lane().submit([HostBuffer(engine.inputs[0], x)], 1).wait()
    return output.to_host()


@pytest.mark.parametrize("run", [lambda graph, x, folder: OrtGraph(graph).run([x])[0][0], _by_orts_target])
def test_a_product_kept_in_floats_between_integers_stays_float_in_onnxruntime(run: Any, tmp_path: Path) -> None:
    """Its optimiser would give the weight a single int8 scale, which is nothing to the small channel's weights."""
    w = np.ones((2, 1, 3, 3), np.float32)
    w[1] *= 1e-3
    x_info, y_info = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 2, 6, 6]) for n in "xy")
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "depthwise", group=2, pads=[1, 1, 1, 1])]
    body = helper.make_graph(nodes, "kept", [x_info], [y_info], [numpy_helper.from_array(w, "w")])
    graph = from_proto(helper.make_model(body, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), "kept.onnx")
    edge = NumberFormat("uint8", symmetric=False)
    edges = {"x": ("uint8", edge.fit(0, 1)), "y": ("uint8", edge.fit(0, 0.009))}
    stored = quantise(np.random.default_rng(0).random((1, 2, 6, 6)).astype(np.float32), edges["x"][1], edge)
    (float_,), _ = OrtGraph(graph).run([dequantise(stored, edges["x"][1])])
    given = run(with_integer_edges(graph, edges), stored, tmp_path)
    np.testing.assert_array_equal(given, quantise(float_, edges["y"][1], edge))
    assert len(np.unique(given[:, 1])) > 20


def test_tensors_are_ranked_by_their_own_rounding(zoo: Any, pictures: Path) -> None:
    chain = open_chain(zoo.stages)
    record = calibrate(chain, from_path(pictures), "minmax")
    ranked = rank_tensors(chain, record, SCHEME)
    assert {t.stage for t in ranked} == {"stem", "stage1", "stage2"}
    decibels = {(t.stage, t.tensor): t.decibels for t in ranked}
    stem = OrtGraph(chain.graphs["stem"])
    frames = [chain.geometry("backbone").apply(image)[0][None] for _, image in from_path(pictures)]
    values = np.concatenate([stem.run([frame])[0][0] for frame in frames])
    name = next(t.tensor for t in ranked if t.tensor == chain.stages[0][1].outputs[0].name)
    fit = SCHEME.activation.fit(float(values.min()), float(values.max()))
    measured = sqnr(values, dequantise(quantise(values, fit, SCHEME.activation), fit))
    assert decibels["stem", name] == pytest.approx(measured, abs=0.3)
