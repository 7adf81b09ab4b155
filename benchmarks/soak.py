"""A long run: many requests over many tasks on small real engines, with cancels, failures, tasks that come and go.

    python benchmarks/soak.py --requests 100000 --json out.json

Every result is compared bit for bit with the task run alone. Rows: requests, tasks, done, failed, cancelled,
refused, mismatched_values, lost, rss_growth (median of the last quarter to that of the second), seconds.
Leaves with 1 if a result differs, a request is lost, or memory grew by more than 2 %.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from stagekit.cpu import instruction_sets
from stagekit.errors import Cancelled, EngineError, Overloaded, UsageError
from stagekit.graph import Graph, TensorSpec, from_proto
from stagekit.runtime.admission import Admission
from stagekit.runtime.driver import Driver
from stagekit.runtime.lanes import Run, direct
from stagekit.runtime.program import Call, Program, Ref
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.work import Frame, Request
from stagekit.target import Buffer, Engine, HostBuffer, Target, silent
from stagekit.targets import get, load_profile

CHANNELS, SIDE, STAGES = 12, 16, 3
FRAMES = 16
SAMPLES = 400


@click.command()
@click.option("--requests", default=100_000, show_default=True)
@click.option("--tasks", default=50, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write the rows here.")
def main(requests: int, tasks: int, seed: int, path: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        result = Soak(Engines(Path(folder), seed), tasks, seed).run(requests)
    text = json.dumps({"device": instruction_sets(), "rows": [result]}, indent=1)
    if path:
        path.write_text(text + "\n")
    click.echo(text)
    sys.exit(bool(result["mismatched_values"] or result["lost"] or result["rss_growth"] > 1.02))


class Engines:
    """Compiles small graphs with onnxruntime and opens them as often as wanted."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.target: Target = get("onnxruntime")
        # One thread each: of calls this small, others would only wait for their share.
        self.profile = replace(load_profile("ort-f32"), options={"threads": 1})
        self.random = np.random.default_rng(seed)
        self._folder = folder
        self._blobs: dict[str, Any] = {}

    def compile(self, digest: str, graph: Graph) -> None:
        workdir = self._folder / digest.replace("/", "_")
        workdir.mkdir()
        self._blobs[digest] = self.target.compile(graph, graph.inputs, graph.outputs, self.profile, workdir, silent)

    def open(self, digest: str) -> Engine:
        return self.target.load(self._blobs[digest], self.profile)

    def convolution(self, inputs: int, outputs: int, *, first: bool = False, head: bool = False) -> Graph:
        """A convolution with ReLU, from uint8 frames if it is the first, to labels if it is a head."""
        weights = numpy_helper.from_array(
            self.random.normal(0, 0.2, (outputs, inputs, 3, 3)).astype(np.float32), "weights"
        )
        nodes = []
        if first:
            nodes.append(helper.make_node("Cast", ["x"], ["cast"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Conv", ["cast" if first else "x", "weights"], ["conv"], pads=[1] * 4))
        if head:
            nodes.append(helper.make_node("ArgMax", ["conv"], ["index"], axis=1, keepdims=0))
            nodes.append(helper.make_node("Cast", ["index"], ["y"], to=TensorProto.UINT8))
        else:
            nodes.append(helper.make_node("Tanh", ["conv"], ["y"]))
        kind = TensorProto.UINT8 if first else TensorProto.FLOAT
        taken = helper.make_tensor_value_info("x", kind, ["batch", inputs, SIDE, SIDE])
        shape = ["batch", SIDE, SIDE] if head else ["batch", outputs, SIDE, SIDE]
        given = helper.make_tensor_value_info("y", TensorProto.UINT8 if head else TensorProto.FLOAT, shape)
        body = helper.make_graph(nodes, "small", [taken], [given], [weights])
        proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(proto)
        return from_proto(proto, "small")


class Flaky:
    """An engine whose calls fail now and then, when it is told to."""

    def __init__(self, engine: Engine, fails: Callable[[], bool]) -> None:
        self.inputs, self.outputs, self.batches = engine.inputs, engine.outputs, engine.batches
        self._engine = engine
        self._fails = fails

    def lane(self) -> _FlakyLane:
        return _FlakyLane(direct(self._engine), self._fails)

    def close(self) -> None:
        self._engine.close()


@dataclass
class _FlakyLane:
    call: Run
    fails: Callable[[], bool]

    def run(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        if self.fails():
            raise RuntimeError("device lost")
        return self.call(inputs, batch)

    def submit(self, inputs: Sequence[Buffer], batch: int) -> Any:
        raise NotImplementedError


class Soak:
    """The run itself."""

    def __init__(self, engines: Engines, tasks: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.engines = engines
        for stage in range(STAGES):
            engines.compile(f"s{stage}", engines.convolution(3 if stage == 0 else CHANNELS, CHANNELS, first=stage == 0))
        self.programs = [self._task(f"t{number}", number % (STAGES + 1)) for number in range(tasks)]
        spec = TensorSpec("x", "uint8", (1, 3, SIDE, SIDE))
        self.frames = [
            HostBuffer(spec, self.random.integers(0, 256, spec.concrete(), dtype=np.uint8)) for _ in range(FRAMES)
        ]
        self.expected = {p.task: [self._alone(p, frame) for frame in self.frames] for p in self.programs}
        self.failing = False
        self.outcomes: Counter[str] = Counter()
        self.mismatched = 0
        self.answered = 0
        self._lock = threading.Lock()
        self.driver = Driver(
            Scheduler({"cpu": 2}, budget=1 << 20), Admission(most=64), reopen=lambda digest: self._open(digest)[0]
        )

    def run(self, requests: int) -> dict[str, Any]:
        serving = {p.task for p in self.programs}
        by_name = {p.task: p for p in self.programs}
        for program in self.programs:
            self.driver.add(program, self._open)
        begun, rss, sent = time.perf_counter(), list[int](), 0
        open_requests: list[Request] = []
        while sent < requests:
            dice = self.random.random()
            task = f"t{self.random.integers(len(self.programs))}"
            if dice < 0.002:
                self.failing = not self.failing
            elif dice < 0.006 and task in serving:
                serving.discard(task)
                self.driver.remove(task)
            elif dice < 0.2 and task not in serving:
                serving.add(task)
                self.driver.add(by_name[task], self._open)
            elif dice < 0.02 and open_requests:
                self.driver.cancel(open_requests[int(self.random.integers(len(open_requests)))])
            if task in self.driver.out:  # it was taken out: its engine failed twice
                self.driver.add(by_name[task], self._open)
                serving.add(task)
            request = self._ask(task, int(self.random.integers(FRAMES)), sent, shared=dice > 0.5)
            sent += 1
            if request is not None:
                open_requests = [*open_requests[-30:], request]
            if sent % max(1, requests // SAMPLES) == 0:
                rss.append(resident())
        while self.driver.statistics().waiting:
            time.sleep(0.01)
        self.driver.close()
        quarter = len(rss) // 4
        growth = median(rss[-quarter:]) / median(rss[quarter : 2 * quarter]) if quarter else 1.0
        return {
            "requests": requests,
            "tasks": len(self.programs),
            **{kind: self.outcomes[kind] for kind in ("done", "failed", "cancelled", "refused", "not_open")},
            "mismatched_values": self.mismatched,
            "lost": requests - sum(self.outcomes.values()),
            "rss_mb": round(rss[-1] / 1e6, 1) if rss else None,
            "rss_growth": round(growth, 4),
            "seconds": round(time.perf_counter() - begun, 1),
        }

    def _ask(self, task: str, number: int, sent: int, shared: bool) -> Request | None:
        key = f"shared-{number}" if shared else f"own-{sent}"

        def done(request: Request) -> None:
            (outcome,) = request.outcomes
            kind, wrong = "done", 0
            if isinstance(outcome, Cancelled):
                kind = "cancelled"
            elif isinstance(outcome, Exception):
                kind = "failed"
            else:
                wrong = int(np.sum(outcome.to_host() != self.expected[task][number]))
            with self._lock:
                self.outcomes[kind] += 1
                self.mismatched += wrong

        while True:
            try:
                return self.driver.submit(
                    Frame(key, self.frames[number], shared), [task], done, waits=bool(self.random.random() < 0.2)
                )
            except Overloaded:
                time.sleep(0.0005)
            except (UsageError, EngineError) as error:
                with self._lock:
                    self.outcomes["failed" if isinstance(error, EngineError) else "not_open"] += 1
                return None

    def _open(self, digest: str) -> tuple[Engine, str]:
        engine = self.engines.open(digest)
        if "/" not in digest:
            return engine, "cpu"
        return Flaky(engine, lambda: self.failing and self.random_failure()), "cpu"

    def random_failure(self) -> bool:
        return time.perf_counter_ns() % 97 == 0

    def _task(self, name: str, prompted: int) -> Program:
        """A task that prompts behind one of the stages, or none."""
        calls: list[Call] = []
        value = Ref(-1)
        for stage in range(STAGES):
            calls.append(Call(f"s{stage}", (value,), f"stage{stage}"))
            value = Ref(len(calls) - 1)
            if stage == prompted:
                self.engines.compile(f"{name}/p", self.engines.convolution(CHANNELS, CHANNELS))
                calls.append(Call(f"{name}/p", (value,), f"{name}/spm{stage}", adapter=True))
                value = Ref(len(calls) - 1)
        self.engines.compile(f"{name}/h", self.engines.convolution(CHANNELS, 4, head=True))
        calls.append(Call(f"{name}/h", (value,), f"{name}/head", adapter=True))
        return Program(name, tuple(calls), Ref(len(calls) - 1))

    def _alone(self, program: Program, frame: HostBuffer) -> Any:
        """The result of a task by itself, call after call."""
        values: list[tuple[Buffer, ...]] = []
        for call in program.calls:
            engine = self.engines.open(call.engine)
            inputs = [frame if r.call < 0 else values[r.call][r.output] for r in call.inputs]
            values.append(direct(engine)(inputs, 1))
            engine.close()
        return values[program.result.call][0].to_host().copy()


def resident() -> int:
    """Bytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()
