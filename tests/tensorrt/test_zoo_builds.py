"""Whole real models through TensorRT-RTX, and the exact files it is given through ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stagekit_tensorrt import TensorRtTarget, child, reference
from stagekit_tensorrt.typed import plan

from stagekit.build.engines import WantedEngine
from stagekit.build.kit import Collector
from stagekit.store import Store
from stagekit.target import silent

from .conftest import MakeProfile

pytestmark = pytest.mark.slow

MODELS = {
    "efficientnet_lite0": (["stage2", "stage3", "stage4", "stage5"], ["stage2", "stage3", "stage4", "stage5"]),
    "resnet50": (["stage1", "stage2", "stage3", "stage4"], ["stage1", "stage2", "stage3", "stage4"]),
    "vit_s14": (["stem", "unit4", "unit8"], ["unit12"]),
}
"""Prompted boundaries, and those that the head reads."""

CAPABILITIES = ("86", "89", "120")
TOLERANCE = {"f32": 1e-5, "fp16": 1e-2, "bf16": 5e-2, "int8": 1e-5}
"""Of the largest value."""

TARGET = TensorRtTarget()


@dataclass
class Model:
    """Bundles of a real backbone with one random task."""

    name: str
    stages: Path
    task: Path
    images: list[np.ndarray[Any, Any]] = field(default_factory=list)

    def graphs(self, profile: Any, folder: Path) -> list[WantedEngine]:
        """All graphs that compiling them would build."""
        from stagekit.build.deploy import compile_bundles

        calibration = _calibration(self, folder) if profile.precision == "int8" else None
        collector = Collector(TARGET, profile, Store(folder), silent)
        compile_bundles(self.stages, [self.task], collector, None, "labels", calibration)
        return collector.wanted


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    import torch

    from stagekit.bundle import ClassEntry
    from stagekit.models.heads import create_head
    from stagekit.models.identity import backbone_id
    from stagekit.models.presets import create_spms
    from stagekit.models.prompted import PromptedNetwork
    from stagekit.models.registry import create
    from stagekit.models.weights import find_packaged_weights
    from stagekit.partition.partition import partition_module
    from stagekit.partition.task import write_task

    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    prompts, reads = MODELS[name]
    torch.manual_seed(0)
    backbone = create(name, weights=None if name == "resnet50" else find_packaged_weights(name))
    infos = {info.name: info for info in backbone.boundaries}
    spms = create_spms([infos[p] for p in prompts], 5, torch.ones(5) / 5, "small")
    for spm in spms.values():
        torch.nn.init.normal_(spm.prompt_branch.leave.weight, std=0.05)
    head = create_head("light", [infos[r] for r in reads], 5)
    partition_module(backbone, folder / "model.stages", weights="seed 0")
    network = PromptedNetwork(backbone, spms, head).eval()
    classes = [ClassEntry(name=f"class {i}", color=(i * 40, 255 - i * 50, i * 20)) for i in range(5)]
    identity = backbone_id(backbone)
    write_task(network, folder / "a.task", name="a", backbone=identity, classes=classes, prior=[0.2] * 5)
    return Model(name, folder / "model.stages", folder / "a.task")


@pytest.mark.parametrize("precision", ["f32", "fp16", "bf16", "int8"])
def test_every_graph_builds_twice_to_the_same_bytes(
    model: Model, precision: str, rtx: MakeProfile, tmp_path: Path
) -> None:
    """Each in a process that was started for it."""
    wanted = model.graphs(rtx(precision), tmp_path)
    for capability in CAPABILITIES:
        profile = rtx(precision, compute_capability=capability)
        for engine in wanted:
            digests = set()
            for attempt in range(2):
                folder = tmp_path / f"{capability}-{engine.name.replace('/', '-')}-{attempt}"
                folder.mkdir()
                child.end_waiting()
                blob = TARGET.compile(engine.graph, engine.inputs, engine.outputs, profile, folder, silent)
                digests.add(blob.metadata["sha256"][0])
                (folder / "engine.plan").unlink()
            assert len(digests) == 1, f"{engine.name} differs between two builds for {capability}"


@pytest.mark.parametrize("precision", ["f32", "fp16", "bf16", "int8"])
def test_the_file_for_the_builder_computes_what_the_graph_does(
    model: Model, precision: str, profile: MakeProfile, tmp_path: Path
) -> None:
    """Stage by stage, each fed with what the stage before it gives; of int8 the Q/DQ graph is the measure."""
    known: dict[str, np.ndarray[Any, Any]] = {}
    for engine in model.graphs(profile(precision), tmp_path):
        fresh = reference.sample(engine.graph.inputs, 1)
        inputs = {spec.name: known.get(spec.name, fresh[spec.name]) for spec in engine.graph.inputs}
        wanted = reference.run(engine.graph, inputs)
        known |= wanted
        typed = plan(engine.graph, engine.inputs, engine.outputs, profile(precision)).graph
        for name, found in reference.run(typed, inputs).items():
            if wanted[name].dtype == np.uint8:
                assert np.mean(found == wanted[name]) > 0.98, f"{engine.name}: {name}"
            elif wanted[name].dtype == np.int8:
                assert np.array_equal(found, wanted[name]), f"{engine.name}: {name}"
            else:
                error = np.abs(found - wanted[name]).max() / np.abs(wanted[name]).max()
                assert error < TOLERANCE[precision], f"{engine.name}: {name} off by {error:.1e}"


def _calibration(model: Model, folder: Path) -> Any:
    """A record from a few smooth random pictures; the ranges only have to be plausible here."""
    import subprocess
    import sys

    from PIL import Image

    from stagekit.quant.record import load

    pictures, record = folder / "pictures", folder / "model.calib"
    pictures.mkdir()
    random = np.random.default_rng(0)
    for index in range(4):
        small = random.integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC).save(pictures / f"{index}.png")
    command = ["calibrate", model.stages, model.task, "--data", pictures, "-o", record]
    program = "import sys; from stagekit.cli import main; main(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", program, *map(str, command)], check=True, capture_output=True)
    return load(record)
