"""What the scheduler and its driver cost: engines that take no time, so that all that is measured is ours.

Rows: tasks (registered), mode, us_per_call, us_per_request (10 calls), cpu_us_per_request, ratio (to one task,
round by round, of processor time).

    python benchmarks/scheduler_overhead.py --json out.json

Modes: ``wait``, one request after the other, each waited for; ``submit``, all at once. Processor time of the
process is what it costs; wall time also counts what else the machine does.
"""

from __future__ import annotations

import gc
import json
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from stagekit.cpu import instruction_sets
from stagekit.runtime.admission import Admission
from stagekit.runtime.driver import Driver
from stagekit.runtime.null import SCALAR, NullEngine
from stagekit.runtime.program import Call, Program, Ref
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.work import Frame, Request
from stagekit.target import HostBuffer

CALLS = 10
FRAME = HostBuffer(SCALAR.bind(batch=1), np.zeros(1, np.float32))


@click.command()
@click.option("--requests", default=500, show_default=True, help="In a round.")
@click.option("--rounds", default=15, show_default=True)
@click.option("--tasks", "counts", multiple=True, type=int, default=[1, 1000], show_default=True)
@click.option("--depth", default=1, show_default=True, help="Batches in flight.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(requests: int, rounds: int, counts: tuple[int, ...], depth: int, path: Path | None) -> None:
    drivers = {count: opened(count, depth) for count in counts}
    spent: dict[tuple[int, str], list[tuple[float, float]]] = {}
    for _ in range(rounds + 1):
        for count, driver in drivers.items():
            for mode, run in (("wait", waited), ("submit", submitted)):
                gc.collect()
                wall, cpu = time.perf_counter(), time.process_time()
                run(driver, requests)
                elapsed = (time.perf_counter() - wall, time.process_time() - cpu)
                spent.setdefault((count, mode), []).append((elapsed[0] / requests * 1e6, elapsed[1] / requests * 1e6))
    for driver in drivers.values():
        driver.close()
    rows = [row(count, mode, spent, counts[0]) for count, mode in spent]
    text = json.dumps({"device": instruction_sets(), "depth": depth, "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def row(count: int, mode: str, spent: dict[tuple[int, str], list[tuple[float, float]]], first: int) -> dict[str, Any]:
    mine, base = spent[count, mode][1:], spent[first, mode][1:]
    wall, cpu = median(w for w, _ in mine), median(c for _, c in mine)
    return {
        "tasks": count,
        "mode": mode,
        "us_per_call": round(wall / CALLS, 2),
        "us_per_request": round(wall, 1),
        "cpu_us_per_request": round(cpu, 1),
        "ratio": round(median(m[1] / b[1] for m, b in zip(mine, base, strict=True)), 3),
    }


def opened(tasks: int, depth: int) -> Driver:
    """A driver with so many tasks of nine shared stages and a head."""
    driver = Driver(Scheduler({"null": depth}), Admission(most=1 << 30))
    for number in range(tasks):
        calls = [Call(f"s{i}", (Ref(i - 1),), f"stage{i}") for i in range(CALLS - 1)]
        calls.append(Call(f"t{number}/head", (Ref(CALLS - 2),), f"t{number}/head", adapter=True))
        program = Program(f"t{number}", tuple(calls), Ref(CALLS - 1))
        driver.add(program, lambda digest: (NullEngine(), "null"))
    return driver


def waited(driver: Driver, requests: int) -> None:
    for number in range(requests):
        answer: Future[Request] = Future()
        driver.submit(Frame(str(number), FRAME), ["t0"], answer.set_result, waits=True)
        assert answer.result().error is None


def submitted(driver: Driver, requests: int) -> None:
    left = [requests]
    all_done = threading.Event()

    def done(request: Request) -> None:
        left[0] -= 1  # one thread of one device tells them all
        if left[0] == 0:
            all_done.set()

    for number in range(requests):
        driver.submit(Frame(str(number), FRAME), ["t0"], done)
    all_done.wait()


if __name__ == "__main__":
    main()
