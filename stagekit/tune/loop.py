"""The loop: batches in, a better network out; it stops and goes on at any step without a trace."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils import deterministic

from stagekit.errors import StagekitError, UsageError
from stagekit.models.loss import segmentation_loss
from stagekit.models.prompted import PromptedNetwork, PromptedOutput
from stagekit.tune import checkpoint
from stagekit.tune.checkpoint import Progressed
from stagekit.tune.interrupt import deferred_interrupts
from stagekit.tune.memory import keep_freed_memory
from stagekit.tune.precision import autocast
from stagekit.tune.recipe import Recipe
from stagekit.tune.schedule import create_optimizer, rate_factor, set_rates

LAST, BEST, LOG = "last.safetensors", "best.safetensors", "log.csv"
FLUSH_EVERY = 20
"""Rows of the log that a crash may lose."""
COLUMNS = ("step", "loss", "rate", "miou", "seconds")

Input = Tensor | Sequence[Tensor]
"""Frames uint8 (batch, height, width, 3), or cached features of the prefix boundaries."""
Source = Callable[[int, int], Iterator[tuple[Input, Tensor]]]
"""Batches from one index up to, not including, another; labels are uint8 (batch, height, width)."""


@dataclass(frozen=True, slots=True)
class Status:
    """What there is to show after a step.

    Attributes:
        step: done, of ``steps``.
        loss: of this step.
        miou: the latest on ``val``, 0 to 1; None before the first.
        scored: whether it is of this step.
        seconds_left: by the pace so far.
    """

    step: int
    steps: int
    loss: float
    miou: float | None
    scored: bool
    seconds_left: float


Watch = Callable[[Status], object]


def learn(
    network: PromptedNetwork,
    recipe: Recipe,
    source: Source,
    score: Callable[[], float] | None,
    folder: Path,
    *,
    data: str = "",
    class_weights: Tensor | None = None,
    penalty: Callable[[], Tensor] | None = None,
    resume: bool = False,
    watch: Watch = lambda status: None,
) -> Progressed:
    """Tunes ``network`` in place and leaves it with the weights that scored best.

    On a CPU a run is a function of its recipe and data, interrupted or not, while the number of threads is the same.

    Args:
        network: as :func:`stagekit.tune.network.create_network` gives it, on the device where it learns.
        recipe: rates, steps and precision.
        source: of batches, indexed from the start of the run.
        score: mIoU on ``val`` for the weights of the moment; None keeps the last weights.
        folder: for the checkpoints and ``log.csv``; made if it does not exist.
        data: digest of the data set, so that a run is not resumed on another one.
        class_weights: of the loss.
        penalty: asked after each pass, and added to its loss.
        resume: goes on from the checkpoint in ``folder`` if there is one.
        watch: told about every step.

    Raises:
        UsageError: the checkpoint is of another recipe or data set.
        StagekitError: the loss is no longer finite.
        KeyboardInterrupt: after SIGINT, once a checkpoint is written.
    """
    train, frozen = recipe.train, recipe.method.frozen
    keep_freed_memory()
    optimizer = create_optimizer(network, train)
    folder.mkdir(parents=True, exist_ok=True)
    with _repeatable(train.seed, next(network.head.parameters()).device), deferred_interrupts() as interrupted:
        at = Progressed(recipe.digest(), data)
        if resume and (folder / LAST).is_file():
            at = _resumed(folder / LAST, network, optimizer, at)
        log = _Log(folder / LOG, at.steps)
        network.train()
        batches = source(at.steps * train.accumulate, train.iterations * train.accumulate)
        first, earlier, start = at.steps, at.seconds, time.perf_counter()
        while at.steps < train.iterations:
            factor = rate_factor(at.steps, train.iterations, train.warmup, train.power)
            set_rates(optimizer, factor)
            loss = _step(network, recipe, optimizer, islice(batches, train.accumulate), class_weights, penalty)
            spent = time.perf_counter() - start
            at = replace(at, steps=at.steps + 1, seconds=earlier + spent)
            if not math.isfinite(loss):
                raise StagekitError(
                    f"the loss is {loss} at step {at.steps}",
                    where=folder / LOG,
                    remedy="lower the learning rates, or lengthen the warm-up",
                )
            out_of_time = train.minutes is not None and at.seconds >= train.minutes * 60
            due = at.steps % train.eval_every == 0 or at.steps == train.iterations or out_of_time
            if due:
                at = _scored(at, network, frozen, score, folder)
            log.write(at, loss, factor, scored=due)
            # Asked once: what comes after this line is obeyed, and saved, one step later.
            stop = interrupted() and at.steps < train.iterations
            if due or stop:
                log.flush()
                checkpoint.save(folder / LAST, network, frozen, at, optimizer)
            left = spent / (at.steps - first) * (train.iterations - at.steps)
            watch(Status(at.steps, train.iterations, loss, at.miou, due, left))
            if stop:
                raise KeyboardInterrupt
            if out_of_time:
                break
        log.flush()
    checkpoint.load(folder / BEST, network)
    network.eval()
    return at


def _step(
    network: PromptedNetwork,
    recipe: Recipe,
    optimizer: Optimizer,
    batches: Iterator[tuple[Input, Tensor]],
    class_weights: Tensor | None,
    penalty: Callable[[], Tensor] | None,
) -> float:
    """One optimizer step; the mean loss of its passes."""
    device = next(network.head.parameters()).device
    total = torch.zeros((), device=device)
    optimizer.zero_grad(set_to_none=True)
    for inputs, labels in batches:
        with autocast(recipe.train, device):
            output = _forward(network, inputs, device)
        loss = segmentation_loss(
            output,
            labels.to(device),
            interim_weights=recipe.method.interim_weight,
            class_weights=class_weights,
        )
        if penalty is not None:
            loss = loss + penalty().to(loss.device)
        (loss / recipe.train.accumulate).backward()  # type: ignore[no-untyped-call]
        total += loss.detach() / recipe.train.accumulate
    optimizer.step()
    return float(total)


def _forward(network: PromptedNetwork, inputs: Input, device: torch.device) -> PromptedOutput:
    if isinstance(inputs, Tensor):
        output: PromptedOutput = network(inputs.to(device))
        return output
    return network.forward_rest([feature.to(device) for feature in inputs])


def _scored(
    at: Progressed, network: PromptedNetwork, frozen: bool, score: Callable[[], float] | None, folder: Path
) -> Progressed:
    """Scores the weights of the moment, and keeps them if none before were better."""
    miou = score() if score else None
    # A tie goes to the later weights; without a score every weight ties.
    if miou is None or at.best_miou is None or not miou < at.best_miou:
        at = replace(at, best_step=at.steps, best_miou=miou)
        checkpoint.save(folder / BEST, network, frozen, at)
    return replace(at, miou=miou)


def _resumed(path: Path, network: PromptedNetwork, optimizer: Optimizer, fresh: Progressed) -> Progressed:
    at = checkpoint.load(path, network, optimizer)
    for name, found, expected in (("recipe", at.recipe, fresh.recipe), ("data set", at.data, fresh.data)):
        if found != expected:
            raise UsageError(
                f"the checkpoint is of another {name}",
                where=path,
                remedy=f"restore the {name}, or tune again without --resume",
            )
    return at


@contextmanager
def _repeatable(seed: int, device: torch.device) -> Iterator[None]:
    """Seeds torch and, on a CPU, insists on deterministic operators; all is as before afterwards."""
    memory: Any = deterministic  # its one attribute is unknown to type checkers
    before, fill = torch.are_deterministic_algorithms_enabled(), memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(before or device.type == "cpu")
        # Fills every new tensor, a tenth of a step's time, for the sake of code that reads what it never wrote.
        memory.fill_uninitialized_memory = False
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            memory.fill_uninitialized_memory = fill


class _Log:
    """``log.csv``: a row a step; rows past the checkpoint that a run goes on from are dropped."""

    def __init__(self, path: Path, steps: int) -> None:
        self.path = path
        self.pending: list[list[object]] = []
        kept: list[list[str]] = []
        if steps and path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                kept = [row for row in csv.reader(file) if row and row[0].isdigit() and int(row[0]) <= steps]
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(COLUMNS), *kept])

    def write(self, at: Progressed, loss: float, factor: float, *, scored: bool) -> None:
        miou = f"{at.miou:.6f}" if scored and at.miou is not None else ""
        self.pending.append([at.steps, repr(loss), f"{factor:.6f}", miou, f"{at.seconds:.2f}"])
        if len(self.pending) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(self.pending)
        self.pending.clear()
