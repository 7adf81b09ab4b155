"""Running compiled models: inputs are not copied, outputs are never overwritten."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from stagekit.calls import CallCheck, ThreadCall
from stagekit.errors import EngineError
from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer
from stagekit_openvino.memory import OutputBlocks, OvBuffer, shared_tensor


class OvEngine:
    """One compiled model for each batch size."""

    def __init__(
        self,
        compiled: Mapping[int, Any],
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.batches = tuple(compiled)
        self._compiled: Mapping[int, Any] | None = compiled
        self.check = CallCheck(name, inputs, self.batches)
        self._lanes: weakref.WeakSet[OvLane] = weakref.WeakSet()

    def lane(self) -> OvLane:
        """One infer request for each batch size, and a thread that runs them."""
        lane = OvLane(self)
        self._lanes.add(lane)
        return lane

    @property
    def compiled(self) -> Mapping[int, Any]:
        if self._compiled is None:
            raise EngineError("the engine is closed", where=self.name)
        return self._compiled

    def close(self) -> None:
        """Lets calls under way finish and frees the models; buffers already given out stay valid."""
        self._compiled = None
        for lane in list(self._lanes):
            lane.close()


class OvLane:
    """Calls one after the other on a thread of its own."""

    def __init__(self, engine: OvEngine) -> None:
        self._engine = engine
        self._ready = {batch: _Ready(model, engine.outputs, batch) for batch, model in engine.compiled.items()}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="openvino-lane")

    def submit(self, inputs: Sequence[Buffer], batch: int) -> ThreadCall:
        """Starts a call; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError: the engine is closed.
            UsageError: the batch size, number, type or shape of the inputs is not the engine's.
        """
        _ = self._engine.compiled
        self._engine.check(inputs, batch)
        try:
            future = self._thread.submit(self._ready[batch].run, tuple(inputs))
        except RuntimeError as error:  # closed by another thread since it was looked at
            raise EngineError("the engine is closed", where=self._engine.name) from error
        return ThreadCall(self._engine.name, future)

    def run(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        """A call that the calling thread waits for: between two of them no other thread has to wake up.

        Raises:
            EngineError, UsageError: as :meth:`submit`.
        """
        _ = self._engine.compiled
        self._engine.check(inputs, batch)
        try:
            return self._ready[batch].run(inputs)
        except Exception as error:
            raise EngineError(f"the call failed: {error}", where=self._engine.name) from error

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._ready = {}


class _Ready:
    """An infer request of one batch size, with memory for what it gives."""

    def __init__(self, model: Any, outputs: Sequence[TensorSpec], batch: int) -> None:
        self._request = model.create_infer_request()
        self._outputs = [
            OutputBlocks(replace(spec.bind(batch=batch), shape=tuple(int(d) for d in port.shape)))
            for spec, port in zip(outputs, model.outputs, strict=True)
        ]
        self._bound: dict[tuple[str, int], Any] = {}
        """The tensors that the request holds, as far as they may come again: those of blocks."""

    def run(self, inputs: Sequence[Buffer]) -> tuple[Buffer, ...]:
        request, bound = self._request, self._bound
        for index, buffer in enumerate(inputs):
            if type(buffer) is OvBuffer:
                if bound.get(("in", index)) is not buffer.tensor:
                    request.set_input_tensor(index, buffer.tensor)
                    bound["in", index] = buffer.tensor
            else:
                bound.pop(("in", index), None)
                array = np.ascontiguousarray(buffer.to_host()).reshape(buffer.spec.concrete())
                request.set_input_tensor(index, shared_tensor(array, buffer.spec.dtype))
        given = tuple(blocks.take() for blocks in self._outputs)
        for index, buffer in enumerate(given):
            if bound.get(("out", index)) is not buffer.tensor:
                request.set_output_tensor(index, buffer.tensor)
                bound["out", index] = buffer.tensor
        # Started and waited for, the call runs on the stream's own thread, whose caches and worker threads stay
        # with it; ``infer()`` would run on this one (6 % slower in a chain).
        request.start_async()
        request.wait()
        return given
