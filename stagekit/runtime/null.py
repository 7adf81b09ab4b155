"""Engines that compute nothing and take a set time: to test and to measure everything around an engine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from stagekit.graph.spec import TensorSpec
from stagekit.runtime.cost import Cost
from stagekit.target import Buffer, HostBuffer

SCALAR = TensorSpec("value", "float32", ("batch",))
"""What null engines take and give unless told otherwise."""


@dataclass
class NullDevice:
    """A device that computes one call at a time, and moves data for others meanwhile.

    Args:
        sleep: how time is spent.
    """

    sleep: Callable[[float], None] = time.sleep
    computing: threading.Lock = field(default_factory=threading.Lock)


@dataclass
class NullEngine:
    """Gives what ``compute`` makes of its first input, or zeros, after the time that ``cost`` says.

    Args:
        cost: of computing a batch; ``None`` for no time at all.
        transfer: seconds to bring data in, during which the device may compute for others.
    """

    inputs: tuple[TensorSpec, ...] = (SCALAR,)
    outputs: tuple[TensorSpec, ...] = (SCALAR,)
    batches: tuple[int, ...] = (1,)
    cost: Cost | None = None
    transfer: float = 0.0
    device: NullDevice = field(default_factory=NullDevice)
    compute: Callable[[Sequence[Buffer], int], tuple[Buffer, ...]] | None = None
    closed: bool = False

    def __post_init__(self) -> None:
        self._blank = {n: self._zeros(n) for n in self.batches}

    def lane(self) -> NullLane:
        return NullLane(self)

    def close(self) -> None:
        self.closed = True

    def run(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        """One call in the caller's thread."""
        if self.cost is not None:
            if self.transfer:
                self.device.sleep(self.transfer)
            with self.device.computing:
                self.device.sleep(self.cost(batch))
        return self._blank[batch] if self.compute is None else self.compute(inputs, batch)

    def _zeros(self, batch: int) -> tuple[Buffer, ...]:
        bound = [spec.bind(batch=batch) for spec in self.outputs]
        return tuple(HostBuffer(s, np.zeros(s.concrete(), s.numpy_dtype)) for s in bound)


class NullCall:
    """A call that is over."""

    def __init__(self, outputs: tuple[Buffer, ...]) -> None:
        self._outputs = outputs

    def wait(self) -> tuple[Buffer, ...]:
        return self._outputs

    def done(self) -> bool:
        return True


class NullLane:
    """Runs calls in the thread that submits them."""

    def __init__(self, engine: NullEngine) -> None:
        self._engine = engine
        self.run = engine.run

    def submit(self, inputs: Sequence[Buffer], batch: int) -> NullCall:
        return NullCall(self._engine.run(inputs, batch))
