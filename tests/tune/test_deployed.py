"""Tasks, partitioned, compiled and run, against the network that they were written from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stagekit.build.compile import compile
from stagekit.bundle import ClassEntry
from stagekit.data.folder import Folder
from stagekit.data.geometry import Resize
from stagekit.data.images import Pixels
from stagekit.data.sliding import sliding_window
from stagekit.models.backbone import Backbone
from stagekit.models.identity import backbone_id
from stagekit.models.prompted import PromptedNetwork
from stagekit.partition.partition import partition_module
from stagekit.partition.task import write_task
from stagekit.session import Session
from stagekit.tune.network import create_network
from stagekit.tune.predict import predictor
from stagekit.tune.recipe import Recipe
from stagekit.tune.score import score

EXAMPLES = Path(__file__).parents[2] / "examples"
RESIZES: tuple[Resize, ...] = ("stretch", "letterbox", "crop")
PRIOR = (0.6, 0.3, 0.1)


@pytest.fixture
def network(backbone: Backbone, recipe: Callable[..., Recipe]) -> PromptedNetwork:
    """Random, its prompts included, and wide awake: its classes all occur."""
    torch.manual_seed(3)
    made = create_network(recipe(), backbone, 3, torch.tensor(PRIOR))
    torch.nn.init.normal_(made.head.classifier.weight, std=1.0)  # type: ignore[union-attr, arg-type]
    for spm in made.spms:
        torch.nn.init.normal_(spm.prompt_branch.leave.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    return made.eval()


@pytest.fixture
def bundles(network: PromptedNetwork, tmp_path: Path) -> list[Path]:
    """The stages, and a task for each way in which images become frames, called after it."""
    stages = tmp_path / "r.stages"
    partition_module(network.backbone, stages, weights="seed 0", exporter="torchscript")
    for resize in RESIZES:
        write_task(
            network,
            tmp_path / f"{resize}.task",
            name=resize,
            backbone=backbone_id(network.backbone),
            classes=[ClassEntry(name=f"class {i}", color=(i, i, i)) for i in range(3)],
            prior=PRIOR,
            resize=resize,
            exporter="torchscript",
        )
    return [stages, *(tmp_path / f"{resize}.task" for resize in RESIZES)]


def test_a_deployment_scores_as_the_network_however_images_become_frames(
    network: PromptedNetwork,
    recipe: Callable[..., Recipe],
    folder: Folder,
    bundles: list[Path],
    store: Path,
    tmp_path: Path,
) -> None:
    compile(bundles, profile="ort-f32", output=tmp_path / "r.deploy")
    own = {r: score(folder, "test", predictor(network, recipe(data={"resize": r}))).miou() for r in RESIZES}
    assert len(set(own.values())) == len(RESIZES)
    for resize in RESIZES:
        with Session(tmp_path / "r.deploy", [resize]) as session:
            deployed = score(folder, "test", lambda image: next(iter(session.run(image).values())))
            assert deployed.miou() == pytest.approx(own[resize], abs=0.001)


def test_windows_run_on_a_deployment_as_on_the_network(
    network: PromptedNetwork,
    recipe: Callable[..., Recipe],
    folder: Folder,
    bundles: list[Path],
    store: Path,
    tmp_path: Path,
) -> None:
    compile(bundles, profile="ort-f32", outputs="logits", output=tmp_path / "r.deploy")
    own = predictor(network, recipe(data={"resize": "crop"}, evaluate={"mode": "slide", "stride": [24, 8]}))
    with Session(tmp_path / "r.deploy", ["crop"]) as session:

        def logits(frames: Pixels) -> NDArray[np.float32]:
            return np.stack([session.run(frame)["crop"] for frame in frames]).astype(np.float32)

        deployed = score(folder, "test", sliding_window(logits, (24, 32), (24, 8), covers=True))
    assert deployed.miou() == pytest.approx(score(folder, "test", own).miou(), abs=0.001)


@pytest.mark.parametrize("task", sorted(EXAMPLES.glob("*.task")), ids=lambda path: path.name)
def test_a_task_of_lite0_is_under_5_megabytes(task: Path) -> None:
    assert sum(file.stat().st_size for file in task.iterdir()) < 5e6
