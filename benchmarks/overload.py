"""1.5 times as many requests as can be answered: who is let in, and is he answered in time?

Rows: clock (virtual or real), seconds, capacity, offered, goodput (answers within the SLO per second), ratio
(goodput to capacity), p99, slo, answered, refused, lost.

    python benchmarks/overload.py --json out.json

Capacity is the highest rate at which, with nobody refused, 99 % are answered within the SLO. On the virtual
clock it is found by trying; on the real one the engines are null engines that sleep for set times, and it is
what a closed loop of requests gets through.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from stagekit.cpu import instruction_sets
from stagekit.errors import Overloaded
from stagekit.runtime.admission import Admission
from stagekit.runtime.cost import Cost
from stagekit.runtime.driver import Driver
from stagekit.runtime.null import SCALAR, NullDevice, NullEngine
from stagekit.runtime.program import Call, Program, Ref
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.simulate import Arrival, SimulatedEngine, simulate
from stagekit.runtime.work import Frame, Request
from stagekit.target import HostBuffer

MS = 1e-3
TASKS, STAGES = 8, 4
SIZES = tuple(range(1, 17))
STAGE, ADAPTER = Cost(3 * MS, 1 * MS), Cost(0.3 * MS, 0.1 * MS)
FRAME = HostBuffer(SCALAR.bind(batch=1), np.zeros(1, np.float32))


@click.command()
@click.option("--virtual", default=60.0, show_default=True, help="Seconds on the virtual clock.")
@click.option("--real", default=20.0, show_default=True, help="Seconds on the real clock.")
@click.option("--load", default=1.5, show_default=True, help="Times the capacity.")
@click.option("--slo", default=0.5, show_default=True)
@click.option("--share", default=0.8, show_default=True, help="K = share x capacity x SLO.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(virtual: float, real: float, load: float, slo: float, share: float, path: Path | None) -> None:
    rows = [on_the_virtual_clock(virtual, load, slo, share)]
    if real:
        rows.append(on_the_real_clock(real, load, slo, share))
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def programs() -> list[Program]:
    """Tasks that prompt every stage."""
    made = []
    for task in range(TASKS):
        calls: list[Call] = []
        value = Ref(-1)
        for stage in range(STAGES):
            calls.append(Call(f"s{stage}", (value,), f"stage{stage}"))
            calls.append(Call(f"t{task}/p{stage}", (Ref(len(calls) - 1),), f"t{task}/spm{stage}", adapter=True))
            value = Ref(len(calls) - 1)
        calls.append(Call(f"t{task}/head", (value,), f"t{task}/head", adapter=True))
        made.append(Program(f"t{task}", tuple(calls), Ref(len(calls) - 1)))
    return made


def engines() -> dict[str, SimulatedEngine]:
    digests = {call.engine for program in programs() for call in program.calls}
    return {d: SimulatedEngine("device", ADAPTER if "/" in d else STAGE, SIZES) for d in sorted(digests)}


def poisson(rate: float, seconds: float, seed: int = 0) -> Iterator[Arrival]:
    random, now = np.random.default_rng(seed), 0.0
    while (now := now + random.exponential(1 / rate)) < seconds:
        yield Arrival(now, (f"t{random.integers(TASKS)}",))


def on_the_virtual_clock(seconds: float, load: float, slo: float, share: float) -> dict[str, Any]:
    burst = [Arrival(0.0, (f"t{i % TASKS}",)) for i in range(2000)]
    most = 2000 / simulate(programs(), engines(), burst).ended
    low, high = 0.5 * most, most
    for _ in range(6):
        rate = (low + high) / 2
        in_time = np.mean(simulate(programs(), engines(), poisson(rate, 20.0)).latencies <= slo)
        low, high = (rate, high) if in_time >= 0.99 else (low, rate)
    arrivals = list(poisson(load * low, seconds))
    result = simulate(programs(), engines(), arrivals, admission=Admission(slo, share=share))
    good = float(np.sum(result.latencies <= slo)) / result.ended
    facts = {"clock": "virtual", "seconds": seconds, "capacity": low, "offered": load * low, "goodput": good}
    lost = len(arrivals) - len(result.answered) - len(result.refused)
    return summary(facts, good / low, result.latencies, slo, len(result.answered), len(result.refused), lost)


def on_the_real_clock(seconds: float, load: float, slo: float, share: float) -> dict[str, Any]:
    driver = opened(Admission(slo, share=share))
    capacity = closed_loop(driver, in_flight=max(8, driver_limit(slo, share)), seconds=max(2.0, seconds / 5))
    latencies: list[float] = []
    refused = sent = 0
    lock = threading.Lock()
    begun = time.perf_counter()
    for number, arrival in enumerate(poisson(load * capacity, seconds)):
        wait = begun + arrival.time - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        due = begun + arrival.time  # lateness of this very loop counts against us
        sent += 1

        def done(request: Request, due: float = due) -> None:
            with lock:
                latencies.append(time.perf_counter() - due)

        try:
            driver.submit(Frame(str(number), FRAME), arrival.tasks, done)
        except Overloaded:
            refused += 1
    while driver.statistics().waiting:
        time.sleep(0.01)
    elapsed = time.perf_counter() - begun
    driver.close()
    values = np.array(latencies)
    good = float(np.sum(values <= slo)) / elapsed
    facts = {"clock": "real", "seconds": seconds, "capacity": capacity, "offered": load * capacity, "goodput": good}
    return summary(facts, good / capacity, values, slo, len(values), refused, sent - len(values) - refused)


def opened(admission: Admission) -> Driver:
    device = NullDevice()
    driver = Driver(Scheduler({"device": 2}), admission)
    costs = engines()
    for program in programs():
        driver.add(program, lambda d: (NullEngine(batches=SIZES, cost=costs[d].cost, device=device), "device"))
    return driver


def driver_limit(slo: float, share: float) -> int:
    """Requests in flight that the SLO leaves room for, by a rough guess at the capacity."""
    return int(share * slo * 130)


def closed_loop(driver: Driver, in_flight: int, seconds: float) -> float:
    """Requests answered per second with always so many in flight."""
    answered = [0]
    slots = threading.Semaphore(in_flight)

    def done(request: Request) -> None:
        answered[0] += 1
        slots.release()

    until = (begun := time.perf_counter()) + seconds
    number = 0
    while time.perf_counter() < until:
        slots.acquire()
        try:
            driver.submit(Frame(f"warm{number}", FRAME), [f"t{number % TASKS}"], done)
        except Overloaded as refusal:
            slots.release()
            time.sleep(min(refusal.retry_after, 0.01))
        number += 1
    rate = answered[0] / (time.perf_counter() - begun)
    while driver.statistics().waiting:
        time.sleep(0.01)
    return rate


def summary(
    facts: dict[str, Any], ratio: float, latencies: Any, slo: float, answered: int, refused: int, lost: int
) -> dict[str, Any]:
    rounded = {k: round(v, 1) if isinstance(v, float) else v for k, v in facts.items()}
    p99 = float(np.quantile(latencies, 0.99))
    return {**rounded, "ratio": round(ratio, 3), "p99": round(p99, 4), "slo": slo,
            "answered": answered, "refused": refused, "lost": lost}  # fmt: skip


if __name__ == "__main__":
    main()
