"""Stages on one device, adapters on another: how near two devices come to what the busier one allows.

Rows: devices, depth (batches in flight), requests, seconds, limit_seconds (of the busier device alone),
fraction_of_limit.

    python benchmarks/pipeline.py --json out.json                      # null engines with set times
    python benchmarks/pipeline.py --deployment mixed.deploy            # and a deployment with --adapter-target

For a deployment the limit is what its engines take in bare loops, one a device and none waiting for another, round
by round in the same run; give its profiles ``threads = 1``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from stagekit.cpu import instruction_sets
from stagekit.runtime.admission import Admission
from stagekit.runtime.cost import Cost
from stagekit.runtime.driver import Driver
from stagekit.runtime.lanes import direct
from stagekit.runtime.null import SCALAR, NullDevice, NullEngine
from stagekit.runtime.opening import Deployment
from stagekit.runtime.program import Call, Program, Ref
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.simulate import Arrival, SimulatedDevice, SimulatedEngine, simulate
from stagekit.runtime.work import Frame, Request
from stagekit.target import HostBuffer

ROUNDS = 9
"""In which a real pipeline and its limit take their turns."""

FRAME = HostBuffer(SCALAR.bind(batch=1), np.zeros(1, np.float32))


@click.command()
@click.option("--requests", default=300, show_default=True)
@click.option("--milliseconds", default=4.0, show_default=True, help="Of each null engine's call.")
@click.option("--transfer", default=1.0, show_default=True, help="Milliseconds to bring a null call's data in.")
@click.option("--deployment", type=click.Path(path_type=Path, exists=True))
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(requests: int, milliseconds: float, transfer: float, deployment: Path | None, path: Path | None) -> None:
    seconds, moving = milliseconds / 1000, transfer / 1000
    rows = [run(requests, seconds, moving, depth) for run in (virtual, null) for depth in (1, 2)]
    if deployment is not None:
        rows.append(real(deployment, requests))
    text = json.dumps({"device": instruction_sets(), "rows": rows}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)


def program() -> Program:
    """Three stages with an SPM behind each: three calls on either device, and a head."""
    calls: list[Call] = []
    value = Ref(-1)
    for stage in range(3):
        calls.append(Call(f"s{stage}", (value,), f"stage{stage}"))
        calls.append(Call(f"p{stage}", (Ref(len(calls) - 1),), f"t/spm{stage}", adapter=True))
        value = Ref(len(calls) - 1)
    calls.append(Call("s3", (value,), "stage3"))
    return Program("t", tuple(calls), Ref(len(calls) - 1))


def row(devices: str, depth: int, requests: int, seconds: float, limit: float) -> dict[str, Any]:
    return {
        "devices": devices,
        "depth": depth,
        "requests": requests,
        "seconds": round(seconds, 3),
        "limit_seconds": round(limit, 3),
        "fraction_of_limit": round(limit / seconds, 3),
    }


def virtual(requests: int, seconds: float, transfer: float, depth: int) -> dict[str, Any]:
    engines = {d: SimulatedEngine(d[0], Cost(0.0, seconds)) for d in ("s0", "s1", "s2", "s3", "p0", "p1", "p2")}
    devices = {name: SimulatedDevice(depth, transfer) for name in "sp"}
    burst = [Arrival(0.0, ("t",)) for _ in range(requests)]
    ended = simulate([program()], engines, burst, devices).ended
    return row("simulated", depth, requests, ended, 4 * seconds * requests)


def null(requests: int, seconds: float, transfer: float, depth: int) -> dict[str, Any]:
    devices = {"s": NullDevice(), "p": NullDevice()}
    driver = Driver(Scheduler(dict.fromkeys(devices, depth)), Admission(most=1 << 30))
    driver.add(
        program(),
        lambda d: (NullEngine(cost=Cost(0.0, seconds), transfer=transfer, device=devices[d[0]]), d[0]),
    )
    spent = timed(driver, "t", FRAME, requests)
    # A sleep takes a little longer than it is asked for: the limit is what the device's own sleeps take.
    slept = []
    for _ in range(50):
        begun = time.perf_counter()
        time.sleep(seconds)
        slept.append(time.perf_counter() - begun)
    driver.close()
    return row("null engines", depth, requests, spent, 4 * median(slept) * requests)


def real(path: Path, requests: int) -> dict[str, Any]:
    deployment = Deployment(path)
    places = deployment.places
    ordered = [p.name for p in places if p.ordered]
    driver = Driver(Scheduler({p.name: p.in_flight for p in places}), Admission(most=1 << 30), ordered=ordered)
    (task, *_) = deployment.tasks()
    made = deployment.program(task)
    driver.add(made, lambda d: (deployment.open(d), deployment.place_of(d).name))
    spec = deployment.manifest.frame.spec.bind(batch=1)
    pixels = np.random.default_rng(0).integers(0, 256, spec.concrete(), dtype=np.uint8)
    frame = HostBuffer(spec, pixels)
    names = {c.engine: deployment.place_of(c.engine).name for c in made.calls}
    timed(driver, task.name, frame, 10)
    spent, limits = [], []
    images = requests // ROUNDS
    for _ in range(ROUNDS):
        spent.append(timed(driver, task.name, frame, images))
        limits.append(apart(driver, made, frame, names, images))
    driver.close()
    found = row(" + ".join(dict.fromkeys(names.values())), 0, ROUNDS * images, sum(spent), sum(limits))
    shares = [limit / took for limit, took in zip(limits, spent, strict=True)]
    return found | {"fraction_of_limit": round(median(shares), 3)}


def apart(driver: Driver, made: Program, frame: HostBuffer, places: dict[str, str], images: int) -> float:
    """Seconds until each device has made its calls of so many images, in bare loops that do not wait for each other.

    Side by side, since two cores of one socket share caches, memory and clock: neither is as quick as it is alone.
    """
    values: list[Any] = []
    calls: dict[str, list[Callable[[], Any]]] = {}
    for call in made.calls:
        run = direct(driver.engines[call.engine])
        inputs = [frame if r.call < 0 else values[r.call][r.output] for r in call.inputs]
        values.append(run(inputs, 1))
        calls.setdefault(places[call.engine], []).append(partial(run, inputs, 1))

    def loop(place: str) -> None:
        for _ in range(images):
            for call in calls[place]:
                call()

    threads = [threading.Thread(target=loop, args=(place,)) for place in calls]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun


def timed(driver: Driver, task: str, frame: HostBuffer, requests: int) -> float:
    """Seconds for so many requests, eight of them in flight."""
    room, left = threading.Semaphore(8), threading.Semaphore(0)

    def done(request: Request) -> None:
        assert request.error is None, request.error
        room.release()
        left.release()

    begun = time.perf_counter()
    for number in range(requests):
        room.acquire()
        driver.submit(Frame(f"{begun}-{number}", frame), [task], done)
    for _ in range(requests):
        left.acquire()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
