"""The programs that may be asked for, as interned steps: registered once, shared wherever they begin alike."""

from __future__ import annotations

from collections.abc import Mapping

from stagekit.errors import UsageError, nearest
from stagekit.runtime.program import Program
from stagekit.runtime.queues import EngineQueue
from stagekit.runtime.statistics import Tally
from stagekit.runtime.work import Entry, Step

Inputs = tuple[tuple[Step | None, int], ...]


class Registry:
    """Programs by task; a step is kept while a program holds it.

    Args:
        engines: by digest; programs may only call these.
    """

    def __init__(self, engines: Mapping[str, EngineQueue]) -> None:
        self._engines = engines
        self._steps: dict[tuple[str, Inputs], Step] = {}
        self.entries: dict[str, Entry] = {}
        self.tallies: dict[str, Tally] = {}

    def add(self, program: Program) -> Entry:
        """Registers a program, in place of one for the same task.

        Raises:
            UsageError: it calls an engine that is not open, or its result is the frame.
        """
        for call in program.calls:
            if call.engine not in self._engines:
                raise UsageError(f"{call.label} needs the engine {call.engine[:16]}, which is not open")
        if program.result.call < 0:
            raise UsageError("a program's result is an output of one of its calls", where=program.task)
        steps: list[Step] = []
        for call in program.calls:
            inputs = tuple((None if r.call < 0 else steps[r.call], r.output) for r in call.inputs)
            step = self._steps.get((call.engine, inputs))
            if step is None:
                depth = 1 + max((s.depth for s, _ in inputs if s is not None), default=0)
                tally = self.tallies.setdefault(call.label, Tally())
                step = Step(self._engines[call.engine], inputs, call.label, call.adapter, depth, tally)
                self._steps[call.engine, inputs] = step
            steps.append(step)
        for step in steps:
            step.users += 1
            step.queue.users += 1
        before = self.entries.pop(program.task, None)
        entry = Entry(program.task, tuple(steps), (steps[program.result.call], program.result.output))
        self.entries[program.task] = entry
        if before is not None:
            self._let_go(before)
        return entry

    def remove(self, task: str) -> Entry:
        """Takes a program out; requests under way keep what they hold.

        Raises:
            UsageError: there is no such task.
        """
        entry = self.find(task)
        del self.entries[task]
        self._let_go(entry)
        return entry

    def find(self, task: str) -> Entry:
        """The program of a task.

        Raises:
            UsageError: there is none; names the nearest.
        """
        entry = self.entries.get(task)
        if entry is None:
            raise UsageError(f"no task {task!r} is open" + nearest(task, list(self.entries)))
        return entry

    def using(self, digest: str) -> list[Entry]:
        """The programs that call an engine."""
        return [e for e in self.entries.values() if any(s.queue.digest == digest for s in e.steps)]

    def count(self, entry: Entry) -> None:
        """Brings the tallies up to what was asked of an entry."""
        for step in entry.steps:
            step.tally.asked += entry.asked
        entry.asked = 0

    def _let_go(self, entry: Entry) -> None:
        self.count(entry)
        for step in entry.steps:
            step.users -= 1
            step.queue.users -= 1
            if step.users == 0:
                self._steps.pop((step.queue.digest, step.inputs), None)
