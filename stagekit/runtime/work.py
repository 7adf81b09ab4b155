"""What flows through the scheduler: steps, entries, frames, work and requests.

A :class:`Step` is a call as programs state it, interned: programs that begin alike, each an :class:`Entry`, hold the
same steps. A :class:`Work` is a step for one frame. (frame, step) names the same thing as the call's key (engine and
keys of the inputs, down to the frame's), so no hash is computed while requests run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from stagekit.runtime.statistics import Tally

if TYPE_CHECKING:
    from stagekit.runtime.queues import EngineQueue

Value = Any
"""An engine's outputs: buffers, which only the driver looks into."""


@dataclass(slots=True, eq=False)
class Step:
    """An engine call with its inputs, down to the frame; equal ones are one object.

    Args:
        queue: of its engine.
        inputs: (step, which of its outputs); ``None`` for the frame.
        label: of the first program that brought it.
        depth: the longest way to it from the frame, in calls.
        tally: of all steps with its label.
        users: programs that hold it.
    """

    queue: EngineQueue
    inputs: tuple[tuple[Step | None, int], ...]
    label: str
    adapter: bool
    depth: int
    tally: Tally
    users: int = 0

    def key(self, frame: str) -> str:
        """The content key of this call for a frame, as :func:`stagekit.runtime.program.call_keys` has it."""
        parts = [self.queue.digest, *(frame if s is None else f"{s.key(frame)}:{o}" for s, o in self.inputs)]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(slots=True, eq=False)
class Entry:
    """A registered program.

    Args:
        steps: one a call, in the program's order.
        result: the step that holds the result, and which of its outputs it is.
        asked: how often it was asked for, as far as the tallies do not know it yet.
    """

    task: str
    steps: tuple[Step, ...]
    result: tuple[Step, int]
    asked: int = 0


class State(IntEnum):
    """What has become of a piece of work; those from DONE on are settled."""

    WAITING = 0
    READY = 1
    RUNNING = 2
    DONE = 3
    FAILED = 4
    DROPPED = 5


WAITING, READY, RUNNING, DONE, FAILED, DROPPED = map(int, State)
"""As plain numbers: these are compared several times for each call."""


@dataclass(slots=True, eq=False)
class Frame:
    """An image as the first stage takes it.

    Args:
        key: names its contents.
        value: the buffer.
        reusable: further requests may name the same frame, so that results are worth keeping.
        work: what is wanted of it or there.
    """

    key: str
    value: Value
    reusable: bool = False
    work: dict[Step, Work] = field(default_factory=dict)


class Work:
    """A step for a frame: waiting for inputs, ready, running, or done and being read."""

    __slots__ = (
        "ahead",
        "due",
        "frame",
        "inputs",
        "missing",
        "priority",
        "rank",
        "readers",
        "reads",
        "requests",
        "sequence",
        "solo",
        "spoilt",
        "state",
        "step",
        "task",
        "values",
    )

    def __init__(self, step: Step, frame: Frame, task: str, due: float, priority: int) -> None:
        self.step = step
        self.frame = frame
        self.task = task
        """The task that first asked for it, for traces."""
        self.due = due
        """Seconds on the scheduler's clock; the earliest of those who want it."""
        self.priority = priority
        self.inputs: list[tuple[Work | None, int]] = []
        self.missing = 0
        """Inputs that are not there yet."""
        self.reads = 0
        """Known readers to come: later work and requests. At 0 the values go."""
        self.readers: list[Work] = []
        self.ahead: list[Work] = []
        """Readers that were let go on while it runs, on the same device."""
        self.requests: list[tuple[Request, int]] = []
        """Requests whose result it holds, with the place in their list of results."""
        self.state: int = WAITING
        self.solo = False
        """Runs alone: it was in a batch that failed."""
        self.spoilt: Exception | bool = False
        """It was started ahead, behind a call that then failed (why) or was made again (true)."""
        self.values: tuple[Value, ...] | None = None
        """Its outputs; while it runs, where they will be, for calls started behind it on the same device."""
        self.rank: tuple[float, ...] = ()
        self.sequence = 0

    def taken(self) -> list[Value]:
        """The values that it computes from."""
        return [self.frame.value if w is None else w.values[o] for w, o in self.inputs]  # type: ignore[index]


class Request:
    """Some tasks of one frame.

    Attributes:
        entries: the tasks' programs as registered.
        outcomes: for each, the result or the error; complete when ``pending`` is 0.
        arrived: seconds on the scheduler's clock; ``deadline`` likewise, or ``None``.
    """

    __slots__ = ("arrived", "deadline", "done_callback", "entries", "frame", "outcomes", "pending", "works")

    def __init__(
        self,
        frame: Frame,
        entries: tuple[Entry, ...],
        arrived: float,
        deadline: float | None,
        done_callback: Callable[[Request], None],
    ) -> None:
        self.frame = frame
        self.entries = entries
        self.arrived = arrived
        self.deadline = deadline
        self.pending = len(entries)
        self.outcomes: list[Value | Exception] = [None] * len(entries)
        self.works: list[Work | None] = [None] * len(entries)
        self.done_callback = done_callback
        """For whoever drives the scheduler: whom to tell."""

    @property
    def done(self) -> bool:
        return self.pending == 0

    @property
    def error(self) -> Exception | None:
        """The first of the tasks' errors."""
        return next((o for o in self.outcomes if isinstance(o, Exception)), None)


def nobody(_: Request) -> None:
    """For requests whose answer is looked up, not told."""
