"""A tiny backbone with three tasks, as real bundles, for all tests that start from bundles."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# Test processes run side by side: one thread each, before anything that reads this is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shared machine may be slow at any moment; timing decides no test.
settings.register_profile("stagekit", deadline=None)
settings.load_profile("stagekit")


@dataclass(frozen=True)
class Zoo:
    """Folders made once a test run; never written to by tests."""

    stages: Path
    other_size: Path
    tasks: dict[str, Path]
    foreign: Path
    network: Any


@dataclass(frozen=True)
class Result:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """Stages at 32 x 48 and 48 x 32, tasks ``land`` (two SPMs), ``sea`` (one), ``line`` (head alone)."""
    import torch
    from torch import nn

    from stagekit.bundle import ClassEntry
    from stagekit.models.backbone import Backbone, BoundaryInfo, Preprocessing
    from stagekit.models.heads import LightHead
    from stagekit.models.identity import backbone_id
    from stagekit.models.presets import create_spms
    from stagekit.models.prompted import PromptedNetwork
    from stagekit.partition.partition import partition_module
    from stagekit.partition.task import write_task

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("zoo")
    infos = [BoundaryInfo("stem", 8, 2), BoundaryInfo("stage1", 12, 4), BoundaryInfo("stage2", 16, 8)]

    def backbone(size: tuple[int, int], scale: float = 1.0) -> Backbone:
        torch.manual_seed(1)
        segments = [
            nn.Sequential(OrderedDict(stem=_unit(3, 8, 2))),
            nn.Sequential(OrderedDict(stage1_1=_unit(8, 12, 2))),
            nn.Sequential(OrderedDict(stage2_1=_unit(12, 16, 2), stage2_2=_unit(16, 16, 1))),
        ]
        preprocessing = Preprocessing((120.0, 115.0, 105.0), (60.0, 58.0, 57.0))
        made = Backbone({"name": "tiny", "revision": 1}, preprocessing, infos, segments, size)
        with torch.no_grad():
            made.segments[0].stem[0].weight.mul_(scale)
        return made.eval().requires_grad_(False)

    frozen = backbone((32, 48))
    partition_module(frozen, folder / "tiny.stages", weights="seed 1", exporter="torchscript")
    partition_module(backbone((48, 32)), folder / "tall.stages", weights="seed 1", exporter="torchscript")
    partition_module(backbone((32, 48), 2.0), folder / "foreign.stages", weights="scaled", exporter="torchscript")
    tasks: dict[str, Path] = {}
    network: Any = None
    for name, prompts, classes in (("land", [0, 2], 4), ("sea", [1], 3), ("line", [], 2)):
        prior = torch.full((classes,), 1 / classes)
        spms = create_spms([infos[i] for i in prompts], classes, prior, "small") if prompts else {}
        for spm in spms.values():
            nn.init.normal_(spm.prompt_branch.leave.weight, std=0.3)
        tuned = PromptedNetwork(frozen, spms, LightHead(infos[1:], classes, width=8)).eval()
        with torch.no_grad():
            for parameter in tuned.head.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        tasks[name] = folder / f"{name}.task"
        colors = [ClassEntry(name=f"class {i}", color=(60 * i, 255 - 60 * i, 90)) for i in range(classes)]
        write_task(
            tuned,
            tasks[name],
            name=name,
            backbone=backbone_id(frozen),
            classes=colors,
            prior=prior.tolist(),
            exporter="torchscript",
        )
        network = tuned if name == "land" else network
    return Zoo(folder / "tiny.stages", folder / "tall.stages", tasks, folder / "foreign.stages", network)


def _unit(inputs: int, outputs: int, stride: int) -> Any:
    from torch import nn

    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty engine store of this test's own, also for the command line."""
    folder = tmp_path / "store"
    monkeypatch.setenv("STAGEKIT_STORE", str(folder))
    return folder


@pytest.fixture
def stagekit(store: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""
    from stagekit.cli import main

    def call(*args: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([str(a) for a in args])
        captured = capsys.readouterr()
        code = left.value.code
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)

    return call


@pytest.fixture
def fresh_stagekit(store: Path) -> Callable[..., Result]:
    """Runs the command line in a fresh interpreter; ``block`` names modules that must not be imported there."""

    def call(*args: object, block: tuple[str, ...] = ()) -> Result:
        program = (
            "import sys\n"
            f"for name in {block!r}: sys.modules[name] = None\n"
            "from stagekit.cli import main\n"
            "main(sys.argv[1:])\n"
        )
        command = [sys.executable, "-c", program, *map(str, args)]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), timeout=120, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A smooth colour picture of 61 x 83 pixels: no size of any engine."""
    from PIL import Image

    y, x = np.mgrid[0:61, 0:83]
    pixels = np.stack([3 * x, 4 * y, 2 * (x + y)], axis=-1).clip(0, 255).astype(np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    return path
