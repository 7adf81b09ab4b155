"""What targets share when they run: checking a call's inputs, and calls that run on a lane's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from operator import is_

from stagekit.errors import EngineError, UsageError
from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer


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


class ThreadCall:
    """A call on a lane's thread; see :class:`stagekit.target.Completion`."""

    def __init__(self, name: str, future: Future[tuple[Buffer, ...]]) -> None:
        self._name = name
        self._future = future

    def wait(self) -> tuple[Buffer, ...]:
        try:
            return self._future.result()
        except Exception as error:  # vendors raise what they like; the cause is kept
            raise EngineError(f"the call failed: {error}", where=self._name) from error

    def done(self) -> bool:
        return self._future.done()
