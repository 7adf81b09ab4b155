"""The loop: repeatable, resumable bit for bit, and harmless to what is frozen."""

from __future__ import annotations

import csv
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stagekit.data.folder import Folder
from stagekit.errors import BundleError, StagekitError, UsageError
from stagekit.models.backbone import Backbone
from stagekit.models.identity import backbone_id
from stagekit.models.prompted import PromptedNetwork
from stagekit.models.registry import build
from stagekit.models.vit import ViT
from stagekit.tune import checkpoint
from stagekit.tune.loop import BEST, LAST, LOG, Status
from stagekit.tune.network import create_network
from stagekit.tune.recipe import Recipe
from stagekit.tune.tune import train

RANDOM = {"augment": {"flip": True, "rotate": 0.3, "scale": (0.8, 1.2), "brightness": 0.2}}


class Runner:
    """Tunes fresh networks on one data set."""

    def __init__(self, new_backbone: Callable[[], Backbone], folder: Folder, root: Path) -> None:
        self.new_backbone, self.folder, self.root = new_backbone, folder, root
        self.frequencies = folder.class_frequencies("train")

    def network(self, recipe: Recipe) -> PromptedNetwork:
        return create_network(recipe, self.new_backbone(), 3, torch.from_numpy(self.frequencies).float())

    def __call__(
        self, recipe: Recipe, run: str, watch: Callable[[Status], object] = lambda status: None, resume: bool = False
    ) -> PromptedNetwork:
        network = self.network(recipe)
        train(network, recipe, self.folder, self.frequencies, self.root / run, resume, watch=watch)
        return network

    def log(self, run: str) -> list[dict[str, str]]:
        with (self.root / run / LOG).open() as file:
            return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def run(new_backbone: Callable[[], Backbone], folder: Folder, tmp_path: Path) -> Runner:
    return Runner(new_backbone, folder, tmp_path)


def equal(first: nn.Module, second: nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def interrupt_at(step: int) -> Callable[[Status], object]:
    return lambda status: os.kill(os.getpid(), signal.SIGINT) if status.step == step else None


@pytest.mark.parametrize("kind", ["spm", "head", "full"])
def test_a_seed_repeats_a_run_and_another_gives_another(run: Runner, recipe: Callable[..., Recipe], kind: str) -> None:
    chosen = recipe(method={"kind": kind}, train=RANDOM)
    torch.manual_seed(1)
    first = run(chosen, "first")
    torch.manual_seed(2)  # what the caller's generator holds does not matter
    assert equal(first, run(chosen, "again"))
    assert run.log("first") == run.log("again")
    assert not equal(first, run(recipe(method={"kind": kind}, train={"seed": 1, **RANDOM}), "other"))


@pytest.mark.parametrize(
    "changes",
    [
        {"train": RANDOM},
        {"train": {"accumulate": 2, "optimizer": "sgd", "precision": "bf16", "lr_spm": 1e-2, **RANDOM}},
        {"train": {"cache": 2, **RANDOM}},
        {"method": {"kind": "scratch"}},
    ],
    ids=["adamw", "sgd, accumulated, bf16", "cached", "scratch"],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    run: Runner, recipe: Callable[..., Recipe], changes: dict[str, dict[str, Any]]
) -> None:
    chosen = recipe(**changes)
    whole = run(chosen, "whole")
    for step in (1, 4):  # obeyed one step later: just after a score, and between two
        with pytest.raises(KeyboardInterrupt):
            run(chosen, "parts", watch=interrupt_at(step), resume=step == 4)
    parts = run(chosen, "parts", resume=True)
    assert equal(whole, parts)
    assert run.log("whole") == run.log("parts")
    assert [row["step"] for row in run.log("parts")] == ["1", "2", "3", "4", "5", "6"]


def test_an_interrupt_saves_the_step_that_was_under_way(run: Runner, recipe: Callable[..., Recipe]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(recipe(), "run", watch=interrupt_at(2))
    assert signal.getsignal(signal.SIGINT) is before
    chosen = recipe()
    network = run.network(chosen)
    assert checkpoint.load(run.root / "run" / LAST, network).steps == 3
    assert len(run.log("run")) == 3


@pytest.mark.parametrize("kind", ["spm", "head"])
def test_the_frozen_backbone_gets_no_gradient_and_keeps_its_statistics(
    run: Runner, recipe: Callable[..., Recipe], kind: str
) -> None:
    before, fresh = backbone_id(run.new_backbone()), run.network(recipe(method={"kind": kind}))
    network = run(recipe(method={"kind": kind}, train=RANDOM), "run")
    assert all(p.grad is None for p in network.backbone.parameters())
    assert backbone_id(network.backbone) == before
    assert not equal(network.head, fresh.head)
    assert kind == "head" or not equal(network.spms, fresh.spms)


def test_full_tuning_learns_weights_and_holds_statistics_while_scratch_learns_both(
    run: Runner, recipe: Callable[..., Recipe]
) -> None:
    def changed(kind: str) -> set[str]:
        network = run(recipe(method={"kind": kind}), kind)
        start = run.new_backbone().state_dict()
        return {
            name.rsplit(".", 1)[1]
            for name, tensor in network.backbone.state_dict().items()
            if not torch.equal(tensor, start[name])
        }

    assert changed("full") == {"weight", "bias"}
    assert changed("scratch") >= {"weight", "bias", "running_mean", "running_var"}


def test_step_0_of_spm_is_head_exactly(run: Runner, recipe: Callable[..., Recipe]) -> None:
    frames = torch.randint(0, 256, (2, 24, 32, 3), dtype=torch.uint8)
    logits: list[Tensor] = [
        run.network(recipe(method={"kind": kind})).eval()(frames).logits for kind in ("spm", "head")
    ]
    assert torch.equal(*logits)


def test_a_transformer_is_tuned_the_same_way(run: Runner, recipe: Callable[..., Recipe]) -> None:
    tiny = ViT("tiny", width=16, depth=2, heads=4, patch=4, grid=5, cuts=("unit1",), size=(20, 20))
    run.new_backbone = lambda: build(tiny)
    method, head = {"prompts": ["stem", "unit1"], "widths": [8, 8]}, {"reads": ["unit2"]}
    network = run(recipe(method=method, head=head, train=RANDOM), "whole")
    with pytest.raises(KeyboardInterrupt):
        run(recipe(method=method, head=head, train=RANDOM), "parts", watch=interrupt_at(2))
    assert equal(network, run(recipe(method=method, head=head, train=RANDOM), "parts", resume=True))
    assert backbone_id(network.backbone) == backbone_id(build(tiny))


def test_accumulating_two_passes_is_one_of_twice_the_batch(run: Runner, recipe: Callable[..., Recipe]) -> None:
    # Without BatchNorm in what learns (the head's would see halves); one step, as Adam amplifies rounding.
    def spms(batch: int, accumulate: int) -> nn.Module:
        options = {"batch": batch, "accumulate": accumulate, "iterations": 1, "warmup": 0, "optimizer": "sgd"}
        network = run.network(recipe(train=options))
        network.head.eval()
        network.head.train = lambda mode=True: network.head  # type: ignore[method-assign]
        train(network, recipe(train=options), run.folder, run.frequencies, run.root / f"{batch}")
        return network.spms

    for a, b in zip(spms(8, 1).parameters(), spms(4, 2).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_the_best_weights_on_val_are_kept(run: Runner, recipe: Callable[..., Recipe]) -> None:
    seen: dict[int, float | None] = {}
    network = run(recipe(train={"iterations": 12}), "run", watch=lambda s: seen.update({s.step: s.miou}))
    best = checkpoint.load(run.root / "run" / BEST, network)
    scores = {step: miou for step, miou in seen.items() if step % 2 == 0 and miou is not None}
    assert best.best_miou == max(scores.values())
    assert best.best_step == max(step for step, miou in scores.items() if miou == best.best_miou)


def test_a_run_out_of_time_is_scored_where_it_stands(run: Runner, recipe: Callable[..., Recipe]) -> None:
    run(recipe(train={"minutes": 1e-9}), "run")
    (row,) = run.log("run")
    assert row["step"] == "1"
    assert row["miou"]


def test_without_val_the_last_weights_are_kept(run: Runner, recipe: Callable[..., Recipe]) -> None:
    network = run(recipe(data={"val": ""}), "run")
    assert checkpoint.load(run.root / "run" / BEST, network).best_step == 6


def test_it_learns(run: Runner, recipe: Callable[..., Recipe]) -> None:
    run(recipe(train={"iterations": 120, "eval_every": 40}), "run")
    log = run.log("run")
    assert float(log[-1]["loss"]) < 0.6 * float(log[0]["loss"])
    assert float(log[-1]["miou"]) > 0.4  # all ground scores 0.2


def test_another_recipe_or_data_set_does_not_go_on(run: Runner, recipe: Callable[..., Recipe]) -> None:
    run(recipe(), "run")
    with pytest.raises(UsageError, match="another recipe"):
        run(recipe(train={"lr_head": 1e-3}), "run", resume=True)
    (run.folder.root / "test.txt").write_text("image11\n")
    reopened = Runner(run.new_backbone, Folder.open(run.folder.root), run.root)
    with pytest.raises(UsageError, match="another data set"):
        reopened(recipe(), "run", resume=True)


def test_a_damaged_checkpoint_is_a_message(run: Runner, recipe: Callable[..., Recipe]) -> None:
    run(recipe(), "run")
    path = run.root / "run" / LAST
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleError, match="not a readable checkpoint"):
        run(recipe(), "run", resume=True)


def test_a_loss_that_explodes_stops_the_run(run: Runner, recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(StagekitError, match=r"loss is (nan|inf)"):
        run(recipe(train={"optimizer": "sgd", "lr_head": 1e30, "lr_spm": 1e30, "warmup": 0}), "run")
