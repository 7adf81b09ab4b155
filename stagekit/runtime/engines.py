"""The engines that are open for a scheduler's tasks: opened when first needed, reopened once, closed after the last."""

from __future__ import annotations

import threading
from collections.abc import Callable

from stagekit.graph.spec import BATCH
from stagekit.runtime.program import Program
from stagekit.runtime.scheduler import Scheduler
from stagekit.runtime.slots import what
from stagekit.target import Engine

Open = Callable[[str], tuple[Engine, str]]
"""Gives an engine by its digest, and the device to run it on."""

Reopen = Callable[[str], Engine]
"""Opens an engine again, by its digest."""


class OpenEngines:
    """Engines and tasks of a scheduler; any thread may call it.

    Args:
        scheduler: touched under ``lock`` alone.
        reopen: how to open an engine that failed once more; without it, its first failure is its last.
    """

    def __init__(self, scheduler: Scheduler, lock: threading.Lock, reopen: Reopen | None) -> None:
        self.engines: dict[str, Engine] = {}
        """Open now, by digest."""
        self.out: dict[str, str] = {}
        """Why a task was taken out, by its name."""
        self.retiring = False
        """There may be engines that no task holds any more."""
        self._scheduler = scheduler
        self._lock = lock
        self._reopen = reopen
        self._reopened: set[str] = set()
        self._mending = threading.Lock()
        self._changing = threading.Lock()

    def add(self, program: Program, open_engine: Open) -> None:
        """Registers a task, in place of one of the same name, with the engines that are not open yet."""
        with self._changing:
            while True:
                with self._lock:
                    missing = [call.engine for call in program.calls if call.engine not in self.engines]
                    if not missing:
                        self._scheduler.add(program)
                        self.out.pop(program.task, None)
                        self._reopened -= {call.engine for call in program.calls}
                        self.retiring = True  # the one that it replaces may have left engines
                        return
                for digest in dict.fromkeys(missing):
                    self._open(digest, *open_engine(digest))

    def remove(self, task: str) -> None:
        """Lets a task go, and what it alone needs once its requests are answered."""
        with self._lock:
            self.out.pop(task, None)
            if task in self._scheduler.registry.entries:
                self._scheduler.remove(task)
        self.close_unused()

    def close_unused(self) -> None:
        """Closes engines that no task holds and no call waits for."""
        with self._lock:
            unused = [self.engines.pop(digest) for digest in self._scheduler.unused_engines()]
            self.retiring = any(queue.users == 0 for queue in self._scheduler.engines.values())
        for engine in unused:
            engine.close()

    def close(self) -> None:
        """Closes all, once no thread runs calls any more."""
        for engine in self.engines.values():
            engine.close()
        self.engines.clear()

    def keep_dead(self) -> None:
        """From now on nothing is opened again."""
        self._reopen = None

    def mend(self, digest: str, failed: Engine) -> Engine | None:
        """An engine in the place of one that failed: opened again once, ``None`` after that."""
        with self._mending:
            engine = self.engines.get(digest)
            if engine is not failed:
                return engine
            reopen = self._reopen
            if reopen is None or digest in self._reopened:
                return None
            self._reopened.add(digest)
            fresh = reopen(digest)
            with self._lock:
                self.engines[digest] = fresh
        failed.close()
        return fresh

    def give_up(self, digest: str, error: Exception) -> None:
        """An engine is dead: its tasks are taken out."""
        with self._lock:
            for entry in self._scheduler.registry.using(digest):
                label = next(s.label for s in entry.steps if s.queue.digest == digest)
                self.out[entry.task] = f"{label} failed again after it was reopened ({what(error)})"
                self._scheduler.remove(entry.task)
            self.retiring = True

    def _open(self, digest: str, engine: Engine, device: str) -> None:
        sized = all(isinstance(d, int) or d == BATCH for spec in engine.outputs for d in spec.shape)
        size = sum(spec.bind(batch=1).nbytes() for spec in engine.outputs) if sized else 0
        with self._lock:
            self.engines[digest] = engine
            self._scheduler.add_engine(digest, device, engine.batches, size)
