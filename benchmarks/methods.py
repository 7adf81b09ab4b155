"""Tuning methods compared on real tasks: a matrix of runs, one JSON file a cell; it goes on where it stopped.

    python benchmarks/methods.py --data data --budget 60
    python benchmarks/methods.py --data data --only task=brain,backbone=vit_s14 --budget 30
    python benchmarks/methods.py --render docs/results.md

Each method's learning rates are chosen with seed 0 from as many candidates, by the score on ``val`` after a third of
the schedule; the best goes on to the end. Heads, which learn from cached features in seconds, run all candidates to the
end. ``test`` is read once, at the end of a run. All methods share data, schedule, batches and class weights.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from methods_plan import ITERATIONS, LONG, Cell, grid, plan, recipe
from methods_report import render

from stagekit.cpu import instruction_sets
from stagekit.data.dataset import Dataset
from stagekit.data.layouts import open_dataset
from stagekit.models.counts import macs, parameters
from stagekit.models.heads import LightHead
from stagekit.models.prompted import PromptedNetwork
from stagekit.tune import checkpoint
from stagekit.tune.checkpoint import Progressed
from stagekit.tune.loop import LAST, Source, Status, learn
from stagekit.tune.network import create_backbone, create_network
from stagekit.tune.precision import precision_of
from stagekit.tune.predict import predictor
from stagekit.tune.recipe import Recipe
from stagekit.tune.schedule import class_weights
from stagekit.tune.score import score
from stagekit.tune.tune import create_source
from stagekit.whole import write_whole

Row = dict[str, Any]
Say = Callable[[str], None]
RESULTS = Path(__file__).parent / "results" / "methods"


class EndOfRound(Exception):
    """A candidate has run its part of the schedule; its checkpoint is written."""


class Matrix:
    """The cells of one folder of results.

    Args:
        results: one JSON file a cell.
        data: folder of the data sets.
        work: checkpoints of the runs; those of the search serve as the runs of seed 0.
        minutes: cap of a run.
        iterations: steps of a run.
    """

    def __init__(self, results: Path, data: Path, work: Path, minutes: float, iterations: int = ITERATIONS) -> None:
        self.results, self.data, self.work, self.minutes, self.iterations = results, data, work, minutes, iterations

    def row(self, cell: Cell) -> Row | None:
        """What is known of a cell."""
        path = self.results / f"{cell.name}.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def run(self, cell: Cell, say: Say) -> Row:
        """Runs a cell and writes its row, whole or not at all."""
        chosen: Row | None = None
        if cell.candidate is not None:
            rates = grid(cell)[cell.candidate]
        else:
            chosen = self._chosen(cell)
            rates = chosen["rates"]
        stated = recipe(cell, rates, self.data, self._iterations(cell), self.minutes)
        dataset = open_dataset(stated.data.kind, stated.data.folder)
        if cell.method == "head-wide":
            stated = widened(cell, stated, dataset)
        network, frequencies = build(stated, dataset)
        earlier = self._earlier(cell, chosen)
        run = earlier["run"] if earlier else cell.name
        spent = self._learn(cell, stated, dataset, network, frequencies, self.work / run, say)
        if earlier:
            spent |= {key: round(spent[key] + earlier[key], 1) for key in ("seconds", "cpu_seconds")}
        row = {
            "task": cell.task,
            "backbone": cell.backbone,
            "method": cell.method,
            "setting": cell.setting,
            "seed": cell.seed,
            "candidate": cell.candidate,
            "rates": rates,
            "iterations": stated.train.iterations,
            "precision": str(precision_of(stated.train, torch.device("cpu"))),
            "processor": instruction_sets(),
            "run": run,
            **spent,
            **sizes(network, stated),
            "recipe": stated.portable(),
        }
        if cell.candidate is None:
            say("scoring on test")
            confusion = score(dataset, "test", predictor(network.eval(), stated))
            names = dataset.classes.names
            row |= {
                "miou": confusion.miou(),
                "accuracy": confusion.accuracy(),
                "iou": {n: None if v != v else float(v) for n, v in zip(names, confusion.iou(), strict=True)},
                "data": dataset.digest(),
            }
        self._write(cell, row)
        return row

    def _learn(
        self,
        cell: Cell,
        stated: Recipe,
        dataset: Dataset,
        network: PromptedNetwork,
        frequencies: torch.Tensor,
        run: Path,
        say: Say,
    ) -> Row:
        """Learns from the checkpoint in ``run`` on, if there is one; what this took, without scoring."""
        source, caching = _source(cell, stated, dataset, network, say)
        predict = predictor(network, stated)
        scoring = [0.0, 0.0]

        def val_miou() -> float:
            begun = time.perf_counter(), time.process_time()
            value = score(dataset, "val", predict).miou()
            scoring[0] += time.perf_counter() - begun[0]
            scoring[1] += time.process_time() - begun[1]
            return value

        # Heads on cached features cost seconds: all their candidates run to the end.
        partial = cell.candidate is not None and stated.train.cache == "off"
        until = stated.train.eval_every if partial else stated.train.iterations
        last: list[Status] = []
        at: Progressed | None = None

        def watch(status: Status) -> None:
            say(f"step {status.step} of {status.steps}, loss {status.loss:.3f}")
            last.append(status)
            if status.scored and until <= status.step < status.steps:
                raise EndOfRound

        begun = time.perf_counter(), time.process_time()
        with suppress(EndOfRound):
            at = learn(
                network,
                stated,
                source,
                val_miou,
                run,
                data=dataset.digest(),
                class_weights=class_weights(stated.train.class_weights, frequencies),
                resume=True,
                watch=watch,
            )
        return {
            "seconds": round(time.perf_counter() - begun[0] - scoring[0], 1),
            "cpu_seconds": round(time.process_time() - begun[1] - scoring[1], 1),
            "caching_cpu_seconds": round(caching, 1),
            "steps": at.steps if at else last[-1].step,
            "val_miou": at.best_miou if at else last[-1].miou,
        }

    def _chosen(self, cell: Cell) -> Row:
        rows = [self.row(search) for search in cell.searches()]
        return max((row for row in rows if row), key=lambda row: float(row["val_miou"]))

    def _earlier(self, cell: Cell, chosen: Row | None) -> Row | None:
        """The search's run, where it is the beginning of this one and its checkpoint is still there."""
        same = chosen is not None and cell.seed == 0 and chosen["setting"] == cell.setting
        return chosen if same and chosen and (self.work / chosen["run"] / LAST).is_file() else None

    def _iterations(self, cell: Cell) -> int:
        """At equal time, as many steps as take the processor as long as ``spm`` took it."""
        if cell.setting == "long":
            return LONG * self.iterations
        needed = cell.timed_by()
        if not needed:
            return self.iterations
        spm, own = (self.row(one) for one in needed)
        if not spm or not own:
            raise click.ClickException(f"{cell.name} needs {' and '.join(one.name for one in needed)}")
        if spm.get("processor") != own.get("processor"):
            raise click.ClickException(f"{cell.name}: {' and '.join(one.name for one in needed)} ran on two processors")
        available = float(spm["cpu_seconds"]) - float(own["caching_cpu_seconds"])
        return max(round(float(own["steps"]) * available / float(own["cpu_seconds"])), 21)

    def _write(self, cell: Cell, row: Row) -> None:
        write_whole(self.results / f"{cell.name}.json", (json.dumps(row, indent=1) + "\n").encode())


def build(stated: Recipe, dataset: Dataset) -> tuple[PromptedNetwork, torch.Tensor]:
    """The network of a recipe at its start, and the class frequencies of the training split."""
    frequencies = torch.from_numpy(dataset.class_frequencies("train")).float()
    backbone = create_backbone(stated.backbone, stated.method, stated.train.seed)
    network = create_network(stated, backbone, len(frequencies), frequencies)
    return network.to(memory_format=torch.channels_last), frequencies  # type: ignore[call-overload]


def widened(cell: Cell, stated: Recipe, dataset: Dataset) -> Recipe:
    """The recipe with the narrowest head (in steps of 4) that has the parameters of ``spm``'s head and SPMs."""
    classes = len(dataset.classes.names)
    spm = recipe(replace(cell, method="spm"), {}, stated.data.folder.parent, ITERATIONS, 1)
    whole, _ = build(spm, dataset)
    wanted = parameters(whole.spms) + parameters(whole.head)
    width = 64
    while parameters(LightHead(whole.head.boundaries, classes, width)) < wanted:
        width += 4
    return stated.model_copy(update={"head": stated.head.model_copy(update={"width": width})})


def sizes(network: PromptedNetwork, stated: Recipe) -> Row:
    """Parameters that learn, megabytes a task adds, its multiply-accumulates beside the backbone's."""
    frozen = stated.method.frozen
    frames = torch.zeros(1, *network.backbone.size, 3, dtype=torch.uint8)
    backbone = macs(network.backbone, frames)
    state = checkpoint.tuned_state(network, frozen)
    return {
        "parameters": sum(parameters(part) for part in (network.head, network.spms))
        + (0 if frozen else parameters(network.backbone)),
        "megabytes": round(sum(tensor.nbytes for tensor in state.values()) / 1e6, 3),
        "macs_share": round((macs(network, frames) - backbone) / backbone, 4),
    }


def _source(cell: Cell, stated: Recipe, dataset: Dataset, network: PromptedNetwork, say: Say) -> tuple[Source, float]:
    """Batches, and the processor seconds that caching took; one cache serves all heads of a seed."""
    if stated.train.cache == "off":
        return create_source(network, stated, dataset, torch.device("cpu")), 0.0
    key = (cell.task, cell.backbone, stated.head.reads, cell.seed)
    if key not in _CACHE:
        _CACHE.clear()  # one at a time: features of a task are a tenth of a gigabyte
        begun = time.process_time()
        source = create_source(network, stated, dataset, torch.device("cpu"), say)
        _CACHE[key] = source, time.process_time() - begun
    return _CACHE[key]


_CACHE: dict[object, tuple[Source, float]] = {}


def selected(cell: Cell, only: Mapping[str, set[str]]) -> bool:
    """Whether a cell has one of the wanted values of every key named."""
    return all(str(getattr(cell, key)) in values for key, values in only.items())


def parse_only(text: str) -> dict[str, set[str]]:
    """``task=brain,backbone=vit_s14``; a key may come several times."""
    only: dict[str, set[str]] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in Cell.__dataclass_fields__:
            raise click.UsageError(
                f"--only: expected one of {', '.join(Cell.__dataclass_fields__)}=value, got {part!r}"
            )
        only.setdefault(key, set()).add(value)
    return only


@click.command(help=__doc__)
@click.option("--data", type=click.Path(path_type=Path), default=Path("data"), show_default=True)
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the rows.")
@click.option("--work", type=click.Path(path_type=Path), default=Path("out/methods"), help="Folder of checkpoints.")
@click.option("--only", default="", help="task=..,backbone=..,method=..,setting=..,seed=..")
@click.option("--budget", type=float, default=60.0, show_default=True, help="Minutes; no cell starts after them.")
@click.option("--cap", type=float, default=10.0, show_default=True, help="Minutes of one run.")
@click.option("--iterations", default=ITERATIONS, show_default=True)
@click.option("--render", "page", type=click.Path(path_type=Path), help="Write the page and run nothing.")
def main(
    data: Path, results: Path, work: Path, only: str, budget: float, cap: float, iterations: int, page: Path | None
) -> None:
    if page:
        render(results, page)
        return
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    results.mkdir(parents=True, exist_ok=True)
    matrix, wanted, end = Matrix(results, data, work, cap, iterations), parse_only(only), time.monotonic() + budget * 60
    wanted_cells = (cell for cell in plan() if selected(cell, wanted))
    for cell in (run for final in wanted_cells for run in (*final.searches(), final)):
        if matrix.row(cell):
            continue
        if time.monotonic() >= end:
            click.echo("out of budget; the same command goes on")
            return
        begun = time.perf_counter()
        row = matrix.run(cell, lambda text: None)
        scores = f"val {row['val_miou']:.4f}" + (f", test {row['miou']:.4f}" if "miou" in row else "")
        took = f"{row['steps']} steps, {time.perf_counter() - begun:.0f} s"
        click.echo(f"{time.strftime('%H:%M:%S')} {cell.name} {row['rates']}: {scores}, {took}")
    click.echo("complete")


if __name__ == "__main__":
    main()
