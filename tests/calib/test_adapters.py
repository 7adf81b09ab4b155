"""SPMs and heads in integers: on request, from the same record, beside the same stages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_calib.chain import Chain, OrtGraph, execute, open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.data.folder import Folder
from stagekit.errors import BundleError, UsageError
from stagekit.quant.adapters import adapter_keys, quantise_adapter
from stagekit.quant.record import Calibration, save
from stagekit.quant.scheme import QuantScheme
from stagekit.runtime.program import Call
from stagekit.session import Session

from .conftest import picture


@pytest.fixture(scope="module")
def land(zoo: Any) -> Chain:
    return open_chain(zoo.stages, [zoo.tasks["land"]])


@pytest.fixture(scope="module")
def record(land: Chain, labelled: Folder) -> Calibration:
    return calibrate(land, from_path(labelled.root), name="land")


@pytest.fixture(scope="module")
def saved(record: Calibration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("record") / "land.calib"
    save(record, folder)
    return folder


def test_every_convolution_of_a_quantised_adapter_reads_integers(land: Chain, record: Calibration) -> None:
    for label, adapter in land.adapters.items():
        made = quantise_adapter(land.graphs[label], adapter, {}, record, QuantScheme())
        convolutions = [n for n in made.body if n.op_type == "Conv"]
        assert len(convolutions) == sum(n.op_type == "Conv" for n in land.graphs[label].body)
        for node in convolutions:
            assert [v.producer().op_type for v in node.inputs[:2]] == ["DequantizeLinear"] * 2
        assert [s.dtype for s in made.outputs] == [s.dtype for s in land.graphs[label].outputs]


def test_a_quantised_adapter_gives_nearly_what_the_float_one_gives(land: Chain, record: Calibration) -> None:
    graphs = {label: OrtGraph(graph) for label, graph in land.graphs.items()}
    label = "land/spm1"
    made = OrtGraph(quantise_adapter(land.graphs[label], land.adapters[label], {}, record, QuantScheme()))
    seen: list[tuple[Any, Any]] = []

    def run(call: Call, inputs: list[Any]) -> list[Any]:
        outputs = graphs[call.label].run(inputs)[0]
        if call.label == label:
            seen.append((outputs[0], made.run(inputs)[0][0]))
        return outputs

    execute(land, picture(3), "3", run)
    ((expected, given),) = seen
    assert 0 < np.abs(given - expected).max() < 0.1 * np.abs(expected).max()


def test_adapters_that_begin_alike_have_ranges_of_their_own(land: Chain) -> None:
    graph = land.graphs["land/spm0"]
    assert not {*adapter_keys(graph, "a").values()} & {*adapter_keys(graph, "b").values()}


@pytest.mark.parametrize("profile", ["ort-int8", "ov-int8"])
def test_int8_adapters_answer_like_float_ones_on_the_same_stages(
    profile: str, zoo: Any, saved: Path, labelled: Folder, store: Path, tmp_path: Path
) -> None:
    bundles, output = [zoo.stages, zoo.tasks["land"]], tmp_path / "int8.deploy"
    plain = compile(bundles, profile=profile, calibration=saved)
    made = compile(bundles, profile=profile, calibration=saved, output=output, int8_adapters=True)
    assert [s.engine for s in made.manifest.stages] == [s.engine for s in plain.manifest.stages]
    assert made.manifest.tasks[0].head != plain.manifest.tasks[0].head
    with Session(output) as session:
        agreement = [np.mean(session.run(s.image)["land"] == s.mask) for s in labelled.samples("val")]
    assert np.mean(agreement) > 0.95


def test_a_deployment_holds_float_and_int8_adapters_side_by_side(
    zoo: Any, labelled: Folder, store: Path, tmp_path: Path
) -> None:
    output, both = tmp_path / "mixed.deploy", tmp_path / "both.calib"
    tasks = [zoo.tasks["land"], zoo.tasks["line"]]
    save(calibrate(open_chain(zoo.stages, tasks), from_path(labelled.root)), both)
    compile([zoo.stages, tasks[0]], profile="ort-int8", calibration=both, output=output)
    added = compile([tasks[1]], into=output, calibration=both, int8_adapters=True)
    plain = compile([zoo.stages, tasks[1]], profile="ort-int8", calibration=both)
    assert added.engines[0].fingerprint != plain.engines[-1].fingerprint
    with Session(output) as session:
        assert set(session.run(picture(0))) == {"land", "line"}


def test_an_adapter_that_the_record_did_not_see_is_refused_in_integers(
    zoo: Any, saved: Path, store: Path, tmp_path: Path
) -> None:
    """A head changes no frozen tensor, so its task needs no record; its own integers do."""
    bundles = [zoo.stages, zoo.tasks["line"]]
    compile(bundles, profile="ort-int8", calibration=saved)
    with pytest.raises(BundleError, match="the record land has no statistics of"):
        compile(bundles, profile="ort-int8", calibration=saved, int8_adapters=True)


def test_int8_adapters_need_a_record_and_an_integer_profile(zoo: Any, saved: Path, store: Path) -> None:
    with pytest.raises(UsageError, match="there is no record"):
        compile([zoo.stages, zoo.tasks["land"]], profile="ort-f32", int8_adapters=True)
    with pytest.raises(UsageError, match="the profile ort-f32 is f32"):
        compile(
            [zoo.stages, zoo.tasks["land"]],
            profile="ort-int8",
            calibration=saved,
            adapter_profile="ort-f32",
            int8_adapters=True,
        )
