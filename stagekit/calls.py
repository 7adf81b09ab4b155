"""What targets share when they run: checking a call's inputs, and engines whose calls are waited for by a thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from operator import is_
from typing import Protocol, cast
from weakref import WeakSet

from stagekit.errors import EngineError, UsageError
from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer

Call = Callable[[Sequence[Buffer], int], tuple[Buffer, ...]]
"""Inputs, which are the engine's, and batch size to outputs, which belong to the caller."""


class Starting(Protocol):
    """A call that an ordered device also makes by itself."""

    def __call__(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]: ...

    def start(self, inputs: Sequence[Buffer], batch: int) -> tuple[tuple[Buffer, ...], Callable[[], None]]:
        """Starts it; its outputs to be, and what to call to wait for them."""


class CallCheck:
    """Whether an engine can take what it is called with.

    Args:
        name: the engine's, for messages.
        inputs: as the engine takes them, of any batch.
        batches: sizes that it is built for.
    """

    def __init__(self, name: str, inputs: Sequence[TensorSpec], batches: Sequence[int]) -> None:
        self._name = name
        self._wanted = {batch: [spec.bind(batch=batch) for spec in inputs] for batch in batches}
        self._passed: dict[int, list[TensorSpec]] = {batch: [] for batch in batches}
        """What each input was the last time: in a chain of engines it is the same object every time."""

    def __call__(self, inputs: Sequence[Buffer], batch: int) -> None:
        """
        Raises:
            UsageError: the batch size, number, type or shape is not the engine's; names the tensor.
        """
        passed = self._passed.get(batch)
        if passed is None:
            sizes = ", ".join(map(str, self._wanted))
            raise UsageError(f"it is built for batches of {sizes}, not {batch}", where=self._name)
        given = [buffer.spec for buffer in inputs]
        if passed and len(passed) == len(given) and all(map(is_, passed, given)):
            return
        wanted = self._wanted[batch]
        if len(given) != len(wanted):
            names = ", ".join(spec.name for spec in wanted)
            raise UsageError(f"expected {len(wanted)} inputs ({names}), got {len(given)}", where=self._name)
        for want, have in zip(wanted, given, strict=True):
            fits = len(want.shape) == len(have.shape) and all(
                isinstance(w, str) or w == h for w, h in zip(want.shape, have.shape, strict=True)
            )
            if have.dtype != want.dtype or not fits:
                raise UsageError(
                    f"input {want.name!r}: expected {want.dtype} {list(want.shape)},"
                    f" got {have.dtype} {list(have.shape)}",
                    where=self._name,
                )
        self._passed[batch] = given


class ThreadEngine:
    """An engine whose calls return when they are done; a lane makes them on a thread of its own.

    Args:
        name: for messages.
        new_call: gives what one lane calls, and keeps until it is closed.
        ordered: its device is, and the calls are :class:`Starting`.
    """

    def __init__(
        self,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batches: tuple[int, ...],
        new_call: Callable[[], Call],
        ordered: bool = False,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.batches = batches
        self.check = CallCheck(name, inputs, batches)
        self._new_call: Callable[[], Call] | None = new_call
        self._kind = OrderedLane if ordered else ThreadLane
        self._lanes: WeakSet[ThreadLane] = WeakSet()

    def lane(self) -> ThreadLane:
        new_call = self._new_call
        if new_call is None:
            raise _closed(self.name)
        lane = self._kind(self, new_call())
        self._lanes.add(lane)
        return lane

    def close(self) -> None:
        """Lets calls under way finish and frees the model; buffers already given out stay valid."""
        self._new_call = None
        for lane in list(self._lanes):
            lane.close()


class ThreadLane:
    """Calls one after the other on a thread of its own."""

    def __init__(self, engine: ThreadEngine, call: Call) -> None:
        self._engine = engine
        self._call: Call | None = call
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stagekit-lane")

    def submit(self, inputs: Sequence[Buffer], batch: int) -> ThreadCall:
        """Starts a call; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError: the engine is closed.
            UsageError: the batch size, number, type or shape of the inputs is not the engine's.
        """
        call = self._checked(inputs, batch)
        try:
            future = self._thread.submit(call, tuple(inputs), batch)
        except RuntimeError as error:  # closed by another thread since it was looked at
            raise _closed(self._engine.name) from error
        return ThreadCall(self._engine.name, future)

    def run(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        """A call that the calling thread waits for: between two of them no other thread has to wake up.

        Raises:
            EngineError, UsageError: as :meth:`submit`.
        """
        call = self._checked(inputs, batch)
        try:
            return call(inputs, batch)
        except Exception as error:
            raise _failed(self._engine.name, error) from error

    def close(self) -> None:
        self._call = None
        self._thread.shutdown(wait=True)

    def _checked(self, inputs: Sequence[Buffer], batch: int) -> Call:
        call = self._call
        if call is None:
            raise _closed(self._engine.name)
        self._engine.check(inputs, batch)
        return call


class OrderedLane(ThreadLane):
    """Calls that the device makes one after the other by itself, if they are started."""

    def start(self, inputs: Sequence[Buffer], batch: int) -> OrderedCall:
        """Starts a call whose inputs may still be under way; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError, UsageError: as :meth:`submit`.
        """
        call = cast(Starting, self._checked(inputs, batch))
        try:
            return OrderedCall(self._engine.name, *call.start(inputs, batch))
        except Exception as error:
            raise _failed(self._engine.name, error) from error


class OrderedCall:
    """A call that was started; see :class:`stagekit.target.Started`."""

    __slots__ = ("_name", "_wait", "outputs")

    def __init__(self, name: str, outputs: tuple[Buffer, ...], wait: Callable[[], None]) -> None:
        self.outputs = outputs
        self._name = name
        self._wait = wait

    def wait(self) -> tuple[Buffer, ...]:
        try:
            self._wait()
        except Exception as error:
            raise _failed(self._name, error) from error
        return self.outputs


class ThreadCall:
    """A call on a lane's thread; see :class:`stagekit.target.Completion`."""

    def __init__(self, name: str, future: Future[tuple[Buffer, ...]]) -> None:
        self._name = name
        self._future = future

    def wait(self) -> tuple[Buffer, ...]:
        try:
            return self._future.result()
        except Exception as error:  # vendors raise what they like; the cause is kept
            raise _failed(self._name, error) from error

    def done(self) -> bool:
        return self._future.done()


def _closed(engine: str) -> EngineError:
    return EngineError("the engine is closed", where=engine)


def _failed(engine: str, error: Exception) -> EngineError:
    return EngineError(f"the call failed: {error}", where=engine)
