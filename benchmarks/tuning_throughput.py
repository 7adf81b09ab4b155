"""stagekit's tuning loop against a bare torch loop of the same network, batch and loss, on one thread.

    python benchmarks/tuning_throughput.py [--backbone efficientnet_lite0] [--method spm] [--json PATH]

The loops alternate in rounds; a round gives the median processor time of a step of each. ``ratio`` is bare over ours,
both fed by the same augmentation; ``ratio_ready`` is against a bare loop whose batches lie ready in memory. Either is
the median over rounds. The data is random. All loops run with an allocator that keeps freed memory, as ours asks for.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import click
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stagekit.models.prompted import PromptedNetwork
from stagekit.tune.augment import Augment
from stagekit.tune.batches import Batches
from stagekit.tune.loop import learn
from stagekit.tune.memory import keep_freed_memory
from stagekit.tune.network import create_backbone, create_network
from stagekit.tune.precision import precision_of
from stagekit.tune.recipe import Recipe
from stagekit.tune.recipe_file import parse_recipe

CLASSES, IMAGES, SIDE = 7, 32, 224
PROMPTS = {"vit_s14": ("stem", "unit4", "unit8")}
CNN_PROMPTS = ("stage2", "stage3", "stage4", "stage5")

Batch = tuple[Tensor, Tensor]


class RandomImages:
    """Images and labels of noise, in memory."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.images = rng.integers(0, 256, (IMAGES, SIDE, SIDE, 3), dtype=np.uint8)
        self.labels = rng.integers(0, CLASSES, (IMAGES, SIDE, SIDE), dtype=np.uint8)

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, position: int) -> tuple[np.ndarray, np.ndarray]:
        return self.images[position], self.labels[position]


def bare(
    network: PromptedNetwork,
    rates: Sequence[tuple[nn.Module, float]],
    batches: Iterator[Batch],
    precision: torch.dtype,
) -> list[float]:
    """The loop that one writes in an evening; processor seconds at the start and after each step."""
    groups = [{"params": list(module.parameters()), "lr": rate} for module, rate in rates]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=0.01)
    network.train()
    ticks = [time.process_time()]
    for frames, labels in batches:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            output = network(frames)
        loss = torch.zeros(())
        for weight, logits in [(1.0, output.logits), *((0.4, interim) for interim in output.interim)]:
            full = F.interpolate(logits.float(), size=labels.shape[1:], mode="bilinear", align_corners=False)
            loss = loss + weight * F.cross_entropy(full, labels.long(), ignore_index=255)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        loss.item()
        ticks.append(time.process_time())
    return ticks


def ours(network: PromptedNetwork, recipe: Recipe, source: Callable[[int, int], Iterator[Batch]]) -> list[float]:
    """Processor seconds after each step."""
    ticks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        learn(network, recipe, source, None, Path(folder), watch=lambda status: ticks.append(time.process_time()))
    return ticks[:-1]  # the last step also writes a checkpoint, which comes once in 50


def step_seconds(ticks: Sequence[float]) -> list[float]:
    """Each step's, without the first, which allocates."""
    return [later - earlier for earlier, later in pairwise(ticks)][1:]


@click.command(help=__doc__)
@click.option("--backbone", default="efficientnet_lite0", show_default=True)
@click.option("--method", default="spm", show_default=True)
@click.option("--steps", default=8, show_default=True, help="Of each loop in a round.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the row here.")
def main(backbone: str, method: str, steps: int, rounds: int, path: Path | None) -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    recipe = parse_recipe(
        {
            "task": {"name": "throughput"},
            "backbone": {"name": backbone, "size": (SIDE, SIDE)},
            "data": {"folder": Path()},
            "method": {"kind": method} | ({"prompts": PROMPTS.get(backbone, CNN_PROMPTS)} if method == "spm" else {}),
            "train": {"iterations": steps, "warmup": 0, "eval_every": 1000, "device": "cpu"}
            | {"augment": {"flip": True, "rotate": 0.25, "scale": (0.8, 1.2), "brightness": 0.15}},
        }
    )
    images = RandomImages()
    batches = Batches(images, Augment(recipe.train.augment, (SIDE, SIDE), (127, 127, 127)), recipe.train.batch, 0)  # type: ignore[arg-type]
    ready = [batches[index] for index in range(steps)]

    def network() -> PromptedNetwork:
        frozen = create_backbone(recipe.backbone.model_copy(update={"weights": "packaged"}), recipe.method, 0)
        made = create_network(recipe, frozen, CLASSES, torch.full((CLASSES,), 1 / CLASSES))
        return made.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]

    def run(name: str) -> float:
        fresh, train = network(), recipe.train
        if name == "ours":
            return median(step_seconds(ours(fresh, recipe, lambda start, end: (batches[i] for i in range(start, end)))))
        rates = [(fresh.spms, train.lr_spm), (fresh.head, train.lr_head)]
        rates += [] if recipe.method.frozen else [(fresh.backbone, train.lr_backbone)]
        source = iter(ready) if name == "bare_ready" else (batches[index] for index in range(steps))
        return median(step_seconds(bare(fresh, rates, source, precision_of(train, torch.device("cpu")))))

    names = ["ours", "bare", "bare_ready"]
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        for name in names[number % 3 :] + names[: number % 3]:  # none always comes first
            times[name].append(run(name))
    row = {
        "backbone": backbone,
        "method": method,
        "batch": recipe.train.batch,
        "ratio": round(median(b / o for b, o in zip(times["bare"], times["ours"], strict=True)), 3),
        "ratio_ready": round(median(b / o for b, o in zip(times["bare_ready"], times["ours"], strict=True)), 3),
        "step_seconds": {name: [round(value, 4) for value in medians] for name, medians in times.items()},
    }
    text = json.dumps({"rows": [row]}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()
