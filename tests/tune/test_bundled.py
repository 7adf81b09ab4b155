"""Tuning on stages that were cut before: a model that only exists as ONNX is a backbone like any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from onnx.reference import ReferenceEvaluator
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.bundle import StagesManifest, read_manifest
from stagekit.data.folder import Folder
from stagekit.errors import BundleError, UsageError, VerificationFailed
from stagekit.models.identity import backbone_id
from stagekit.partition.foreign import partition_onnx
from stagekit.partition.from_onnx import Normalisation
from stagekit.partition.partition import partition_module
from stagekit.quant.record import save
from stagekit.session import Session
from stagekit.tune.bundled import BundledBackbone, identity
from stagekit.tune.recipe import Recipe
from stagekit.tune.score import score
from stagekit.tune.tune import tune

from .conftest import HEIGHT, WIDTH, build_backbone

GREY = Normalisation((127.0,) * 3, (128.0,) * 3)
FOREIGN = """<ir_version: 8, opset_import: ["" : 17]>
foreign (float[N,3,24,32] image) => (float[N,5] scores)
{
  c1 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(image, w1)
  early = HardSwish(c1)
  c2 = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(early, w2)
  left = LeakyRelu(c2)
  right = Sigmoid(c2)
  gated = Mul(left, right)
  late = Conv<pads = [1, 1, 1, 1]>(gated, w3)
  pooled = GlobalAveragePool(late)
  flat = Flatten(pooled)
  scores = MatMul(flat, w4)
}"""
SHAPES = {"w1": (8, 3, 3, 3), "w2": (12, 8, 3, 3), "w3": (16, 12, 3, 3), "w4": (16, 5)}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """An ONNX file with one place where two tensors cross, and a tail that gives no map."""
    model = parser.parse_model(FOREIGN)
    rng = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        weight = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    onnx.save(model, tmp_path / "foreign.onnx")
    return tmp_path / "foreign.onnx"


@pytest.fixture
def stages(foreign: Path, tmp_path: Path) -> Path:
    cuts = [["early"], ["left", "right"], ["late"]]
    partition_onnx(foreign, tmp_path / "foreign.stages", at=cuts, normalisation=GREY)
    return tmp_path / "foreign.stages"


def on(stages: Path, *reads: str) -> dict[str, Any]:
    """Sections of a recipe that prompts and reads these boundaries."""
    return {
        "backbone": {"stages": stages, "name": None},
        "method": {"prompts": reads, "widths": [8] * len(reads)},
        "head": {"reads": reads},
    }


def test_its_features_are_those_of_the_file(foreign: Path, stages: Path) -> None:
    backbone = BundledBackbone(stages)
    assert [(b.name, b.channels, b.grid(HEIGHT, WIDTH)) for b in backbone.boundaries] == [
        ("early", 8, (12, 16)),
        ("late", 16, (6, 8)),
    ]
    frames = np.random.default_rng(1).integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    model = onnx.load(foreign)
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in ("early", "late"))
    image = ((frames.astype(np.float32) - 127) / 128).transpose(0, 3, 1, 2)
    expected = ReferenceEvaluator(model).run(["early", "late"], {"image": image})
    for found, wanted in zip(backbone(torch.from_numpy(frames)), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["spm", "head"])
def test_a_task_tuned_on_it_scores_the_same_when_deployed(
    kind: str, stages: Path, folder: Folder, recipe: Callable[..., Recipe], store: Path, tmp_path: Path
) -> None:
    sections = on(stages, "early", "late")
    if kind == "head":
        sections["method"] = {"kind": "head", "prompts": "all", "widths": None}
    manifest = tune(recipe(**sections), tmp_path / "t.task")
    assert manifest.backbone == read_manifest(stages, StagesManifest).backbone.id
    assert manifest.provenance["recipe"]["backbone"] == {"stages": "foreign.stages"}
    assert [p.boundary for p in manifest.prompts] == (["early", "late"] if kind == "spm" else [])
    compile([stages, tmp_path / "t.task"], profile="ort-f32", output=tmp_path / "d.deploy")
    with Session(tmp_path / "d.deploy") as session:
        deployed = score(folder, "test", lambda image: session.run(image)["rectangles"]).miou()
    tuned = next(m.value for m in manifest.metrics if (m.name, m.split) == ("miou", "test"))
    assert deployed == pytest.approx(tuned, abs=1e-3)


def test_stages_of_an_architecture_are_that_architecture(tmp_path: Path) -> None:
    plain = build_backbone()
    partition_module(plain, tmp_path / "tiny.stages", weights="seed 0")
    bundled = BundledBackbone(tmp_path / "tiny.stages")
    assert identity(bundled) == backbone_id(plain) == identity(plain)
    frames = torch.randint(0, 256, (2, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    for found, wanted in zip(bundled(frames), plain(frames), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


def test_a_batch_that_is_written_into_the_graph_is_taken_image_by_image(foreign: Path, tmp_path: Path) -> None:
    model = onnx.load(foreign)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    reshape = onnx.helper.make_node("Reshape", ["c1", "one"], ["c1r"])
    model.graph.node.insert(1, reshape)
    model.graph.node[2].input[0] = "c1r"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1, 8, 12, 16]), "one"))
    onnx.save(model, tmp_path / "fixed.onnx")
    for name in ("foreign", "fixed"):
        partition_onnx(tmp_path / f"{name}.onnx", tmp_path / f"{name}.stages", at=[["late"]], normalisation=GREY)
    frames = torch.randint(0, 256, (3, HEIGHT, WIDTH, 3), dtype=torch.uint8)
    one, other = (BundledBackbone(tmp_path / f"{name}.stages") for name in ("foreign", "fixed"))
    assert one.segments[0].batched
    assert not other.segments[0].batched
    torch.testing.assert_close(other(frames), one(frames))


def test_a_weight_that_changes_is_noticed(
    stages: Path, recipe: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    backbone = BundledBackbone(stages)

    def harm(*_: object) -> None:
        next(iter(backbone.buffers())).add_(1e-3)

    chosen = recipe(**on(stages, "late"))
    with pytest.raises(VerificationFailed, match="the frozen backbone changed"):
        tune(chosen, tmp_path / "t.task", backbone=backbone, watch=harm)


def test_it_is_tuned_through_integers_where_each_stage_ends_at_a_map(
    foreign: Path, stages: Path, recipe: Callable[..., Recipe], folder: Folder, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.stages"
    partition_onnx(foreign, cut, at=[["early"], ["late"]], normalisation=GREY)
    for path in (stages, cut):
        save(calibrate(open_chain(path), from_path(folder.root), name="plain"), path.with_suffix(".calib"))
    manifest = tune(
        recipe(**on(cut, "early", "late"), through={"record": cut.with_suffix(".calib")}), tmp_path / "t.task"
    )
    assert manifest.through is not None
    assert list(manifest.through.stages["ort-int8"]) == ["early", "late"]
    with pytest.raises(UsageError, match="no single feature map crosses"):
        tune(recipe(**on(stages, "late"), through={"record": stages.with_suffix(".calib")}), tmp_path / "u.task")


def test_stages_that_take_no_images_are_refused(foreign: Path, folder: Folder, tmp_path: Path) -> None:
    partition_onnx(foreign, tmp_path / "raw.stages", at=[["late"]])
    for use in (BundledBackbone, open_chain):
        with pytest.raises(BundleError, match="nothing says how an image becomes that") as caught:
            use(tmp_path / "raw.stages")
        assert "--mean and --std" in str(caught.value)


def test_stages_without_a_map_are_refused(foreign: Path, tmp_path: Path) -> None:
    partition_onnx(foreign, tmp_path / "flat.stages", at=[["flat"]], normalisation=GREY)
    with pytest.raises(BundleError, match="nothing to prompt or to read"):
        BundledBackbone(tmp_path / "flat.stages")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"backbone": {"name": None}}, "either the name of an architecture or stages"),
        ({"backbone": {"stages": "x.stages"}}, "either the name of an architecture or stages"),
        ({"backbone": {"name": None, "stages": "x.stages", "size": (24, 32)}}, "leave no choice of size"),
        (
            {
                "backbone": {"name": None, "stages": "x.stages"},
                "method": {"kind": "full", "prompts": "all", "widths": None},
            },
            "stay as they are",
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(
    sections: dict[str, Any], words: str, recipe: Callable[..., Recipe]
) -> None:
    with pytest.raises(UsageError, match=words):
        recipe(**sections)


def test_a_record_covers_the_stages_behind_the_last_that_a_task_reads(
    foreign: Path, recipe: Callable[..., Recipe], folder: Folder, store: Path, tmp_path: Path
) -> None:
    cut, record = tmp_path / "cut.stages", tmp_path / "cut.calib"
    partition_onnx(foreign, cut, at=[["early"], ["late"]], normalisation=GREY)
    images = from_path(folder.root)
    plain = calibrate(open_chain(cut), images, name="plain")
    (pooled,) = (h for h, (stage, tensor) in plain.places.items() if tensor == "pooled" and stage == "scores")
    for reads, prompts in (("early",), ()), (("early", "late"), ("early",)), (("late",), ("late",)):
        sections = on(cut, *reads) | {"method": {"prompts": prompts, "widths": [8] * len(prompts)}}
        if not prompts:
            sections["method"] = {"kind": "head", "prompts": "all", "widths": None}
        tune(recipe(**sections), tmp_path / "t.task")
        tuned = calibrate(open_chain(cut, [tmp_path / "t.task"]), images, name="tuned")
        assert tuned.statistics[pooled].frames == plain.statistics[pooled].frames
        same = np.array_equal(tuned.statistics[pooled].counts, plain.statistics[pooled].counts)
        assert same == (not prompts)
        save(tuned, record)
        compile([cut, tmp_path / "t.task"], profile="ort-int8", calibration=record)
