"""When to run what: programs over opened engines.

This scheduler takes one frame at a time and runs its calls in program order, each key once. It is passed
opened lanes and never builds or loads an engine.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stagekit.errors import EngineError, StagekitError
from stagekit.runtime.program import Program, Ref, call_keys
from stagekit.target import Buffer, Lane


@dataclass
class CallStatistics:
    """What happened so far, by label of the call (of the task that came first, where several share one).

    Args:
        calls: engine calls made.
        shared: calls that another task had already made for the same frame.
        seconds: spent in engine calls.
    """

    calls: Counter[str] = field(default_factory=Counter)
    shared: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


class Scheduler:
    """Runs programs over lanes.

    Args:
        lanes: by engine digest.
        clock: seconds, for statistics.
    """

    def __init__(self, lanes: Mapping[str, Lane], clock: Callable[[], float] = time.perf_counter) -> None:
        self._lanes = lanes
        self._clock = clock
        self.statistics = CallStatistics()

    def run(self, frame: Buffer, key: str, programs: Sequence[Program]) -> dict[str, Buffer]:
        """Results by task name for one frame.

        A value is let go after its last reader, so that memory does not grow with the number of tasks.

        Args:
            frame: batch of 1.
            key: of the frame: equal keys mean equal contents and geometry.

        Raises:
            EngineError: a call failed; names it.
        """
        keys = {program.task: call_keys(program, key) for program in programs}
        readers = _readers(programs, keys)
        values: dict[str, tuple[Buffer, ...]] = {}
        results: dict[str, Buffer] = {}

        def take(program: Program, ref: Ref) -> Buffer:
            if ref.call < 0:
                return frame
            name = keys[program.task][ref.call]
            value = values[name][ref.output]
            readers[name] -= 1
            if readers[name] == 0:
                del values[name]
            return value

        done: set[str] = set()
        for program in programs:
            for call, name in zip(program.calls, keys[program.task], strict=True):
                if name in done:
                    self.statistics.shared[call.label] += 1
                    continue
                done.add(name)
                inputs = [take(program, ref) for ref in call.inputs]
                values[name] = self._call(call.engine, call.label, inputs)
            results[program.task] = take(program, program.result)
        return results

    def _call(self, engine: str, label: str, inputs: Sequence[Buffer]) -> tuple[Buffer, ...]:
        begun = self._clock()
        try:
            outputs = self._lanes[engine].submit(inputs, batch=1).wait()
        except StagekitError as error:
            raise EngineError(f"the call of {label} failed: {error.what}", where=error.where or engine[:16]) from error
        self.statistics.calls[label] += 1
        spent = self.statistics.seconds
        spent[label] = spent.get(label, 0.0) + self._clock() - begun
        return outputs


def _readers(programs: Sequence[Program], keys: Mapping[str, Sequence[str]]) -> Counter[str]:
    """How many reads each call's outputs will see: one for each input of each distinct call, and for results."""
    readers: Counter[str] = Counter()
    done: set[str] = set()
    for program in programs:
        names = keys[program.task]
        for call, name in zip(program.calls, names, strict=True):
            if name not in done:
                done.add(name)
                readers.update(names[ref.call] for ref in call.inputs if ref.call >= 0)
        readers[names[program.result.call]] += 1
    return readers
