"""Tuning through integer stages: the simulation is the deployed graph, and what is tuned in it is bound to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stagekit_calib.chain import OrtGraph, open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.bundle import StagesManifest, TaskManifest, read_graph, read_manifest
from stagekit.data.folder import Folder
from stagekit.errors import BundleError, UsageError
from stagekit.models.backbone import Backbone
from stagekit.partition.partition import partition_module
from stagekit.quant.record import load, save
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.session import Session
from stagekit.targets import load_profile
from stagekit.tune.graph_module import GraphModule
from stagekit.tune.network import create_network
from stagekit.tune.operators import quantise
from stagekit.tune.recipe import Recipe
from stagekit.tune.recipe_file import read_recipe
from stagekit.tune.score import score
from stagekit.tune.sections import ThroughSection
from stagekit.tune.through import Edge, ThroughNetwork, excess, frozen_stages
from stagekit.tune.tune import tune

from .conftest import build_backbone

Array = np.ndarray[Any, Any]
PRIOR = torch.tensor([0.6, 0.3, 0.1])


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("through") / "tiny.stages"
    partition_module(build_backbone(), output, weights="seed 0")
    return output


@pytest.fixture
def record(stages: Path, folder: Folder, tmp_path: Path) -> Path:
    """Ranges of the plain backbone, without any task."""
    save(calibrate(open_chain(stages), from_path(folder.root), name="plain"), tmp_path / "plain.calib")
    return tmp_path / "plain.calib"


@pytest.fixture
def through(stages: Path, record: Path) -> dict[str, Any]:
    return {"record": record, "stages": stages}


def frames(folder: Folder) -> Array:
    return np.stack([s.image[:24, :32] for s in folder.samples("test")])


def chain(stages: Path) -> list[tuple[str, Any]]:
    return [(e.name, read_graph(stages, e)) for e in read_manifest(stages, StagesManifest).stages]


def test_a_float_graph_computes_what_onnx_runtime_computes(stages: Path, folder: Folder) -> None:
    value = frames(folder)
    for _, graph in chain(stages):
        (expected,), _ = OrtGraph(graph).run([value])
        (found,) = GraphModule(graph)(torch.from_numpy(value))
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-5)
        value = expected


@pytest.mark.parametrize("profile", ["ort-int8", "ov-int8", "trt-int8", "fx-int8"])
def test_an_integer_graph_computes_what_onnx_runtime_computes_but_for_ties(
    profile: str, stages: Path, record: Path, folder: Folder
) -> None:
    scheme = scheme_of(load_profile(profile)) if profile != "fx-int8" else power_of_two()
    value = frames(folder)
    for graph in quantise_stages(chain(stages), load(record), scheme).graphs:
        (expected,), _ = OrtGraph(graph, optimise=False).run([value])
        (found,) = GraphModule(graph)(torch.from_numpy(value.astype(np.float32)))
        difference = np.abs(found.numpy() - expected.astype(np.float32))
        assert difference.max() <= 1
        assert (difference > 0).mean() < 0.01
        value = expected


def power_of_two() -> Any:
    scheme = scheme_of(load_profile("trt-int8"))
    return replace(scheme, activation=replace(scheme.activation, grid="power_of_two"), per_channel=False)


def test_gradients_pass_straight_through_rounding_and_stop_at_the_last_level() -> None:
    x = torch.tensor([-3.0, 0.12, 0.5, 1.26, 9.0], requires_grad=True)
    edge = Edge(0.25, 2.0, 0, 15)
    rounded = edge.round(x)
    assert rounded.tolist() == [-0.5, 0.0, 0.5, 1.25, 3.25]
    rounded.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert torch.equal(quantise(rounded.detach(), 0.25, 2.0, 0, 15), edge.store(x.detach()))


def test_a_value_outside_a_range_costs_its_distance() -> None:
    assert float(excess(torch.tensor([-1.0, 0.0, 2.0, 5.0]), (0.0, 4.0))) == pytest.approx((1 + 1) / 4 / 4)
    assert float(excess(torch.tensor([0.0, 4.0]), (0.0, 4.0))) == 0.0


@pytest.fixture
def tuned(
    new_backbone: Callable[[], Backbone], recipe: Callable[..., Recipe], through: dict[str, Any], tmp_path: Path
) -> Path:
    tune(recipe(through=through), tmp_path / "r.task", backbone=new_backbone())
    return tmp_path / "r.task"


def test_a_task_is_bound_to_the_integer_stages_and_runs_on_these_alone(
    tuned: Path, through: dict[str, Any], folder: Folder, store: Path, tmp_path: Path
) -> None:
    from stagekit.build.compile import compile

    stages, record, deployment = through["stages"], through["record"], tmp_path / "d.deploy"
    manifest = read_manifest(tuned, TaskManifest)
    assert manifest.through is not None
    assert manifest.through.record == "plain"
    assert list(manifest.through.stages) == ["ort-int8", "ov-int8"]
    assert all(list(s) == ["stem", "stage1", "stage2", "stage3"] for s in manifest.through.stages.values())
    assert manifest.provenance["recipe"]["through"]["record"] == "plain.calib"

    simulated = next(m.value for m in manifest.metrics if (m.name, m.split) == ("miou", "test"))
    for profile in ("ort-int8", "ov-int8"):  # though the record does not cover the task, and no audit was made
        compile([stages, tuned], profile=profile, calibration=record, output=deployment)
        compile([tuned], into=deployment, calibration=record)
        with Session(deployment) as session:
            deployed = score(folder, "test", lambda image, session=session: session.run(image)["rectangles"]).miou()
        assert deployed == pytest.approx(simulated, abs=0.01)

    other = tmp_path / "other.calib"
    save(replace(load(record), method="percentile:90"), other)
    refused = r"tuned through stem .* \(record plain, ort-int8 or ov-int8\)"
    with pytest.raises(BundleError, match=refused) as caught:
        compile([stages, tuned], profile="ort-int8", calibration=other)
    assert "--through X.calib" in str(caught.value)
    with pytest.raises(BundleError, match=refused):
        compile([stages, tuned], profile="ort-f32")
    compile([stages], profile="ort-int8", calibration=other, output=deployment)
    with pytest.raises(BundleError, match=refused):
        compile([tuned], into=deployment, calibration=other)


def test_stages_are_exported_anew_where_none_are_named(
    backbone: Backbone, through: dict[str, Any], stages: Path
) -> None:
    named = frozen_stages(backbone, ThroughSection(**through), 3)
    exported = frozen_stages(backbone, ThroughSection(record=through["record"]), 3)
    assert named.entry == exported.entry


def test_a_bound_pulls_values_into_the_ranges(
    backbone: Backbone, recipe: Callable[..., Recipe], through: dict[str, Any], folder: Folder
) -> None:
    section = ThroughSection(**through, simulate=False, bound=1.0)
    network = create_network(recipe(), backbone, 3, PRIOR)
    learner = ThroughNetwork(network, frozen_stages(backbone, section, 3), section.bound).eval()
    images = torch.from_numpy(frames(folder))
    with torch.no_grad():
        assert torch.allclose(learner(images).logits, network.eval()(images).logits, atol=1e-4)
        learner.spm_by_boundary["stage1"].prompt_branch.leave.bias.fill_(3.0)  # type: ignore[union-attr]
    optimizer = torch.optim.Adam(learner.spms.parameters(), lr=0.1)
    penalties = []
    for _ in range(10):
        learner(images)
        penalty = learner.penalty()
        optimizer.zero_grad()
        penalty.backward()
        optimizer.step()
        penalties.append(penalty.item())
    assert penalties[-1] < 0.5 * penalties[0]


def test_a_record_or_stages_of_another_backbone_are_refused(
    backbone: Backbone, through: dict[str, Any], tmp_path: Path
) -> None:
    known = load(through["record"])
    foreign = (known.stages[0].model_copy(update={"fingerprint": "0" * 64}), *known.stages[1:])
    save(replace(known, stages=foreign), tmp_path / "foreign.calib")
    with pytest.raises(BundleError, match="the record plain was made on stem 0000"):
        frozen_stages(backbone, ThroughSection(**through | {"record": tmp_path / "foreign.calib"}), 3)
    with torch.no_grad():
        next(backbone.parameters()).mul_(2.0)
    with pytest.raises(BundleError, match="these stages are of the backbone"):
        frozen_stages(backbone, ThroughSection(**through), 3)


def test_recipes_that_make_no_sense_are_refused(
    recipe: Callable[..., Recipe], backbone: Backbone, through: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match="a backbone that learns has no calibrated stages"):
        recipe(through=through, method={"kind": "full"})
    with pytest.raises(UsageError, match="bound must be above 0"):
        recipe(through=through | {"simulate": False})
    with pytest.raises(UsageError, match="in different formats"):
        frozen_stages(backbone, ThroughSection(**through, profiles=("ort-int8", "trt-int8")), 3)


def test_a_recipe_without_a_record_is_the_recipe_that_it_was(recipe: Callable[..., Recipe]) -> None:
    assert "through" not in recipe().portable()
    assert recipe().digest() == recipe(through={"bound": 0.5}).digest()


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    text = '[task]\nname = "t"\n[backbone]\nname = "lite0"\n[data]\nfolder = "d"\n[through]\nrecord = "a.calib"\n'
    (tmp_path / "r.toml").write_text(text)
    assert read_recipe(tmp_path / "r.toml").through.record == tmp_path / "a.calib"


def test_the_option_reaches_the_recipe(stagekit: Callable[..., Any], through: dict[str, Any], tmp_path: Path) -> None:
    text = '[task]\nname = "t"\n[backbone]\nname = "lite0"\n[data]\nfolder = "d"\n[method]\nkind = "full"\n'
    (tmp_path / "r.toml").write_text(text)
    refused = stagekit("tune", tmp_path / "r.toml", "--through", through["record"])
    assert refused.code == 2
    assert "through.record: a backbone that learns" in refused.err
