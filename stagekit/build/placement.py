"""Which device runs SPMs and heads: the price of each arrangement, transfers included.

Stages on one device and adapters on another work side by side, as a pipeline: the throughput is that of the
busier of the two. On one device alone, the loads add up.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from stagekit import targets
from stagekit.build.engines import Builder
from stagekit.build.place import check_task, float_stages, head_graph, spm_graphs
from stagekit.build.plan import sample
from stagekit.bundle import StagesManifest, TaskManifest, read_manifest
from stagekit.errors import StagekitError
from stagekit.graph import Graph
from stagekit.runtime.lanes import direct

ROUNDS = 7
WORTH = 0.05
"""A second device must be at least this share faster: it also takes memory and another vendor's software."""

MEMORY_BANDWIDTH = 4_000_000_000
"""Bytes a second that a boundary is copied at between two devices of one machine; a cautious figure for a CPU."""


@dataclass(frozen=True, slots=True)
class Load:
    """What one image with all its tasks costs on each device.

    Args:
        stages: seconds on the device of the stages.
        adapters: seconds of all SPMs and heads on the device that runs them.
        moved: bytes that cross between the two.
        apart: the devices work side by side, sharing nothing.
    """

    stages: float
    adapters: float
    moved: int = 0
    apart: bool = False


def price(load: Load) -> float:
    """Seconds an image: the longest load of two devices that work side by side, or the sum on one."""
    if not load.apart:
        return load.stages + load.adapters
    return max(load.stages, load.adapters) + load.moved / MEMORY_BANDWIDTH


def choose(loads: Sequence[Load]) -> int:
    """The index of the cheapest arrangement; the first, which is one device, unless another clearly beats it."""
    prices = [price(load) for load in loads]
    best = min(range(len(prices)), key=prices.__getitem__)
    return best if prices[best] < (1 - WORTH) * prices[0] else 0


def choose_adapters(stages: Path, tasks: Sequence[Path], builder: Builder) -> Builder | None:
    """Measures the tasks' adapters on every target that runs here; ``None`` where one device is best.

    Two targets on one processor take time from each other, so they count as side by side only where their
    devices differ.

    Raises:
        BundleError, CompileError, StoreError, TargetUnavailable: as when compiling.
    """
    backbone, adapters, moved = _graphs(stages, tasks)
    frozen = _seconds(builder, backbone)
    loads = [Load(frozen, _seconds(builder, adapters))]
    others: list[Builder | None] = [None]
    for name in dict.fromkeys(targets.get(n).name for n in targets.entries()):
        if name == builder.target.name:
            continue
        try:
            profile = targets.default_profile(name)
            other = Builder(targets.get(name), profile, builder.store, builder.progress)
            seconds = _seconds(other, adapters) if other.target.probe().run else None
        except StagekitError as error:
            builder.progress(f"{name} is left out: {error.what}")
            continue
        if seconds is not None:
            apart = profile.device != builder.profile.device
            loads.append(Load(frozen, seconds, moved, apart))
            others.append(other)
    for load, candidate in zip(loads, others, strict=True):
        builder.progress(
            f"adapters on {candidate.target.name if candidate else builder.target.name}:"
            f" {1000 * price(load):.2f} ms an image"
        )
    return others[choose(loads)]


def _graphs(stages: Path, tasks: Sequence[Path]) -> tuple[list[tuple[str, Graph]], list[tuple[str, Graph]], int]:
    """Stages, adapters, and the bytes that go from one to the other and back."""
    bundle = read_manifest(stages, StagesManifest)
    boundaries = {s.boundary.name: s.boundary for s in bundle.stages}
    adapters: list[tuple[str, Graph]] = []
    moved = 0
    for path in tasks:
        task = read_manifest(path, TaskManifest)
        check_task(path, task, bundle.backbone.id, boundaries)
        for index, (_, boundary, graph) in enumerate(spm_graphs(path, task, boundaries)):
            adapters.append((f"{task.name}/spm{index}", graph))
            moved += 2 * boundary.spec.bind(batch=1).nbytes()
        adapters.append((f"{task.name}/head", head_graph(path, task.head, boundaries, bundle.frame, "labels")))
        moved += sum(boundaries[name].spec.bind(batch=1).nbytes() for name in task.head.reads)
    return float_stages(stages, bundle), adapters, moved


def _seconds(builder: Builder, graphs: Sequence[tuple[str, Graph]]) -> float:
    """Of all graphs, one after the other: the sum of medians."""
    total = 0.0
    batch = builder.profile.batch[0]
    with ExitStack() as engines:
        for name, graph in graphs:
            engine = builder.target.load(builder.build(name, graph).blob, builder.profile)
            engines.callback(engine.close)
            run, inputs = direct(engine), sample(graph.inputs, batch)
            spent = []
            for _ in range(ROUNDS + 1):
                begun = time.perf_counter()
                run(inputs, batch)
                spent.append(time.perf_counter() - begun)
            total += statistics.median(spent[1:]) / batch
    return total
