"""What matters most: frozen stages, a task's SPMs and its head, run one after the other, are the tuned network."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from stagekit.build.place import check_task, head_graph, spm_graph
from stagekit.bundle import (
    MANIFEST,
    Boundary,
    ClassEntry,
    Metric,
    StagesManifest,
    TaskManifest,
    read_graph,
    read_manifest,
)
from stagekit.errors import BundleError
from stagekit.models.backbone import Backbone
from stagekit.models.heads import Head, LightHead, PPMHead, PUPHead
from stagekit.models.identity import backbone_id
from stagekit.models.presets import create_spms
from stagekit.models.prompted import PromptedNetwork
from stagekit.partition.task import write_task
from stagekit.partition.verify import run_file, run_graph

Array = np.ndarray[Any, Any]
Exporter = Literal["dynamo", "torchscript"]
Bundle = Callable[..., Path]
Tiny = Callable[..., Backbone]

CLASSES = 4
PRIOR = torch.tensor([0.4, 0.3, 0.2, 0.1])
SIZES = {"cnn": [None, (48, 40)], "vit": [None, (64, 40)]}
# Which boundaries are prompted, and the head over those that it reads.
TASKS: dict[str, tuple[str, list[int], Callable[[Backbone], Head]]] = {
    "cnn, all prompted": ("cnn", [0, 1, 2], lambda b: LightHead(b.boundaries[1:], CLASSES, width=8)),
    "cnn, one skipped": ("cnn", [0, 2], lambda b: LightHead(b.boundaries, CLASSES, width=8)),
    "cnn, PPM": ("cnn", [1], lambda b: PPMHead(b.boundaries[2], CLASSES, width=8)),
    "cnn, head alone": ("cnn", [], lambda b: LightHead(b.boundaries[-1:], CLASSES, width=8)),
    "vit, all prompted": ("vit", [0, 1, 2], lambda b: PUPHead(b.boundaries[2], CLASSES, 2, width=8, layer_norm=True)),
    "vit, one skipped": ("vit", [0, 2], lambda b: LightHead(b.boundaries[1:], CLASSES, width=8)),
}


def network(tiny: Tiny, name: str, size: tuple[int, int] | None = None) -> PromptedNetwork:
    """A network whose prompts, norms and head are anything but their start."""
    kind, prompted, head = TASKS[name]
    backbone = tiny(kind, size)
    torch.manual_seed(7)
    spms = create_spms([backbone.boundaries[i] for i in prompted], CLASSES, PRIOR, "small") if prompted else {}
    net = PromptedNetwork(backbone, spms, head(backbone))
    for module in (*net.spms.modules(), *net.head.modules()):
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=(2 / module.weight[0].numel()) ** 0.5)
    return net.eval()


@pytest.fixture(scope="session")
def task(tmp_path_factory: pytest.TempPathFactory, tiny: Tiny) -> Callable[..., Path]:
    """``task(name, exporter)``: the task bundle, made once a run."""
    made: dict[Any, Path] = {}

    def task(name: str, exporter: Exporter = "torchscript") -> Path:
        if (name, exporter) not in made:
            path = tmp_path_factory.mktemp("task") / "some.task"
            net = network(tiny, name)
            write_task(
                net,
                path,
                name="some task",
                backbone=backbone_id(net.backbone),
                classes=[ClassEntry(name=f"class {i}", color=(i, i, i)) for i in range(CLASSES)],
                prior=PRIOR.tolist(),
                metrics=[Metric(name="mIoU", value=0.5, data="none", split="test", images=1)],
                provenance={"recipe": {"epochs": 1}},
                exporter=exporter,
            )
            made[name, exporter] = path
        return made[name, exporter]

    return task


def boundaries_of(stages: StagesManifest) -> dict[str, Boundary]:
    return {s.boundary.name: s.boundary for s in stages.stages}


def chain(stages_path: Path, task_path: Path, frames: Array) -> tuple[Array, Array]:
    """Logits and labels of a whole request, in the plainest way: every graph in its turn, in ONNX Runtime."""
    stages = read_manifest(stages_path, StagesManifest)
    task = read_manifest(task_path, TaskManifest)
    boundaries = boundaries_of(stages)
    check_task(task_path, task, stages.backbone.id, boundaries)
    prompts = {p.boundary: p for p in task.prompts}
    features: dict[str, Array] = {}
    semantic: Array | None = None
    before: Boundary | None = None
    x = frames
    for stage in stages.stages:
        (x,) = run_file(stages_path / stage.graph, [x]).values()
        if stage.boundary.name in prompts:
            graph = spm_graph(task_path, prompts[stage.boundary.name], stage.boundary, before, CLASSES)
            assert [s.name for s in graph.inputs] == (["feature"] if before is None else ["feature", "semantic"])
            assert graph.inputs[0].shape == stage.boundary.spec.shape
            assert graph.inputs[0].layout == stage.boundary.spec.layout
            given = run_graph(graph, [x] if semantic is None else [x, semantic])
            assert given["prompted"].shape == x.shape
            x, semantic, before = given["prompted"], given["semantic_out"], stage.boundary
        features[stage.boundary.name] = x
    read = [features[name] for name in task.head.reads]
    logits, labels = (
        run_graph(head_graph(task_path, task.head, boundaries, stages.frame, output), read)[output]
        for output in ("logits", "labels")
    )
    return logits, labels


@pytest.mark.parametrize("name", TASKS)
def test_the_chain_is_the_network_at_every_size_and_batch(
    name: str, task: Callable[..., Path], bundle: Bundle, tiny: Tiny
) -> None:
    check_chain(name, "torchscript", task, bundle, tiny)


@pytest.mark.parametrize("name", ["cnn, one skipped", "vit, one skipped"])
def test_likewise_through_the_other_exporter(name: str, task: Callable[..., Path], bundle: Bundle, tiny: Tiny) -> None:
    check_chain(name, "dynamo", task, bundle, tiny)


def check_chain(name: str, exporter: Exporter, task: Callable[..., Path], bundle: Bundle, tiny: Tiny) -> None:
    kind = TASKS[name][0]
    path = task(name, exporter)
    for size, batch in zip(SIZES[kind], (2, 3), strict=True):
        net = network(tiny, name, size)
        stages = bundle(kind, "torchscript", size)
        frames = np.random.default_rng(5).integers(0, 256, (batch, *net.backbone.size, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = net(torch.from_numpy(frames)).logits
        logits, labels = chain(stages, path, frames)
        assert logits.shape == expected.shape
        assert np.abs(logits - expected.numpy()).max() <= 1e-5 * float(expected.abs().max())

        assert (labels.dtype, labels.shape) == (np.uint8, frames.shape[:3])
        full = nn.functional.interpolate(expected, frames.shape[1:3], mode="bilinear", align_corners=False)
        top = full.topk(2, dim=1).values
        clear = (top[:, 0] - top[:, 1] > 1e-4 * float(full.abs().max())).numpy()  # a tie may fall to either side
        assert clear.mean() > 0.98
        np.testing.assert_array_equal(labels[clear], full.argmax(1).numpy()[clear])


def test_a_task_fits_stages_of_the_other_exporter(task: Callable[..., Path], bundle: Bundle) -> None:
    frames = np.random.default_rng(5).integers(0, 256, (1, 32, 48, 3), dtype=np.uint8)
    one, other = (chain(bundle("cnn", e), task("cnn, one skipped"), frames)[0] for e in ("torchscript", "dynamo"))
    np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(one).max())


def test_prompts_change_what_comes_out(task: Callable[..., Path], bundle: Bundle, tiny: Tiny) -> None:
    # Otherwise the comparisons above would compare little.
    net = network(tiny, "cnn, one skipped")
    frames = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    bare = PromptedNetwork(net.backbone, {}, net.head).eval()
    with torch.inference_mode():
        assert not torch.allclose(net(frames).logits, bare(frames).logits, rtol=0.05)


def test_the_manifest_says_what_the_task_is(task: Callable[..., Path], tiny: Tiny) -> None:
    path = task("cnn, one skipped")
    facts = read_manifest(path, TaskManifest)
    net = network(tiny, "cnn, one skipped")
    assert facts.name == "some-task"
    assert facts.backbone == backbone_id(net.backbone)
    assert [p.boundary for p in facts.prompts] == ["stem", "stage2"]
    assert facts.head.reads == ("stem", "stage1", "stage2")
    assert sorted(p.name for p in path.iterdir()) == ["head.onnx", MANIFEST, "spm0.onnx", "spm1.onnx", "weights.bin"]
    for entry in (*facts.prompts, facts.head):
        assert read_graph(path, entry).fingerprint == entry.fingerprint
        assert entry.macs > 0
    assert facts.metrics[0].value == 0.5
    assert facts.provenance == {"recipe": {"epochs": 1}}


def test_graphs_at_a_place_have_no_resize_that_keeps_the_size(task: Callable[..., Path], bundle: Bundle) -> None:
    stages = read_manifest(bundle("vit"), StagesManifest)
    path = task("vit, one skipped")
    facts = read_manifest(path, TaskManifest)
    boundaries = boundaries_of(stages)
    second = spm_graph(path, facts.prompts[1], boundaries["unit3"], boundaries["stem"], CLASSES)
    head = head_graph(path, facts.head, boundaries, stages.frame, "logits")
    for graph in (second, head):  # all grids of a ViT are equal
        assert not {n.op_type for n in graph.body} & {"Resize", "Identity", "Shape"}


def test_a_task_of_another_backbone_is_refused(task: Callable[..., Path], bundle: Bundle) -> None:
    stages = read_manifest(bundle("cnn", seed=1), StagesManifest)
    path = task("cnn, one skipped")
    facts = read_manifest(path, TaskManifest)
    with pytest.raises(BundleError, match=f"made for the backbone {facts.backbone[:16]}") as raised:
        check_task(path, facts, stages.backbone.id, boundaries_of(stages))
    assert raised.value.exit_code == 4
    assert raised.value.where == str(path)


def test_a_task_for_boundaries_that_a_bundle_lacks_is_refused(task: Callable[..., Path], bundle: Bundle) -> None:
    stages = read_manifest(bundle("cnn"), StagesManifest)
    path = task("cnn, one skipped")
    facts = read_manifest(path, TaskManifest)
    boundaries = {n.replace("stage2", "stage3"): b for n, b in boundaries_of(stages).items()}
    with pytest.raises(BundleError, match="no boundary 'stage2'; did you mean 'stage"):
        check_task(path, facts, stages.backbone.id, boundaries)
    swapped = facts.model_copy(update={"prompts": facts.prompts[::-1]})
    with pytest.raises(BundleError, match="not in the order"):
        check_task(path, swapped, stages.backbone.id, boundaries_of(stages))


def test_graphs_that_do_not_fit_a_boundary_are_refused(task: Callable[..., Path], bundle: Bundle) -> None:
    stages = read_manifest(bundle("cnn"), StagesManifest)
    path = task("cnn, one skipped")
    facts = read_manifest(path, TaskManifest)
    boundaries = boundaries_of(stages)
    with pytest.raises(BundleError, match=r"spm0.onnx must take 'feature' with 32 channels"):
        spm_graph(path, facts.prompts[0], boundaries["stage2"], None, CLASSES)
    with pytest.raises(BundleError, match="nothing fills: semantic"):
        spm_graph(path, facts.prompts[1], boundaries["stage2"], None, CLASSES)
    with pytest.raises(BundleError, match="'semantic' with 7 channels"):
        spm_graph(path, facts.prompts[1], boundaries["stage2"], boundaries["stem"], 7)
    no_grid = boundaries["stem"].model_copy(update={"grid": None})
    with pytest.raises(BundleError, match="cannot be prompted"):
        spm_graph(path, facts.prompts[0], no_grid, None, CLASSES)


def test_a_damaged_task_is_refused(task: Callable[..., Path], bundle: Bundle, tmp_path: Path) -> None:
    path = Path(shutil.copytree(task("cnn, one skipped"), tmp_path / "x.task"))
    facts = read_manifest(path, TaskManifest)
    boundary = read_manifest(bundle("cnn"), StagesManifest).stages[0].boundary
    content = bytearray((path / "weights.bin").read_bytes())
    content[10] ^= 1
    (path / "weights.bin").write_bytes(content)
    with pytest.raises(BundleError, match="fingerprint"):
        spm_graph(path, facts.prompts[0], boundary, None, CLASSES)
    data = json.loads((path / MANIFEST).read_text())
    data["head"]["graph"] = "../head.onnx"
    (path / MANIFEST).write_text(json.dumps(data))
    with pytest.raises(BundleError, match="head"):
        read_manifest(path, TaskManifest)
