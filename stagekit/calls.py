"""What targets share when they run: checking a call's inputs, and calls that run on a lane's own thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

from stagekit.errors import EngineError, UsageError
from stagekit.target import Buffer, Engine


def check_call(engine: Engine, name: str, inputs: Sequence[Buffer], batch: int) -> None:
    """Whether an engine can take these inputs.

    Args:
        name: the engine's, for messages.

    Raises:
        UsageError: the batch size, number, type or shape is not the engine's; names the tensor.
    """
    if batch not in engine.batches:
        sizes = ", ".join(map(str, engine.batches))
        raise UsageError(f"it is built for batches of {sizes}, not {batch}", where=name)
    if len(inputs) != len(engine.inputs):
        names = ", ".join(spec.name for spec in engine.inputs)
        raise UsageError(f"expected {len(engine.inputs)} inputs ({names}), got {len(inputs)}", where=name)
    for spec, buffer in zip(engine.inputs, inputs, strict=True):
        want, have = spec.bind(batch=batch), buffer.spec
        fits = len(want.shape) == len(have.shape) and all(
            isinstance(w, str) or w == h for w, h in zip(want.shape, have.shape, strict=True)
        )
        if have.dtype != want.dtype or not fits:
            raise UsageError(
                f"input {want.name!r}: expected {want.dtype} {list(want.shape)}, got {have.dtype} {list(have.shape)}",
                where=name,
            )


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
