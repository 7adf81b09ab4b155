"""Running compiled models: inputs are not copied, outputs are never overwritten."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from stagekit.calls import ThreadCall, check_call
from stagekit.errors import EngineError
from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer, HostBuffer
from stagekit_openvino.memory import OutputPool, shared_tensor


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
        self.pool = OutputPool()
        self._compiled: Mapping[int, Any] | None = compiled
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
        self._requests = {batch: model.create_infer_request() for batch, model in engine.compiled.items()}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="openvino-lane")

    def submit(self, inputs: Sequence[Buffer], batch: int) -> ThreadCall:
        """Starts a call; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError: the engine is closed.
            UsageError: the batch size, number, type or shape of the inputs is not the engine's.
        """
        _ = self._engine.compiled
        check_call(self._engine, self._engine.name, inputs, batch)
        try:
            future = self._thread.submit(self._run, tuple(inputs), batch)
        except RuntimeError as error:  # closed by another thread since it was looked at
            raise EngineError("the engine is closed", where=self._engine.name) from error
        return ThreadCall(self._engine.name, future)

    def run(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        """A call that the calling thread waits for: between two of them no other thread has to wake up.

        Raises:
            EngineError, UsageError: as :meth:`submit`.
        """
        _ = self._engine.compiled
        check_call(self._engine, self._engine.name, inputs, batch)
        try:
            return self._run(tuple(inputs), batch)
        except Exception as error:
            raise EngineError(f"the call failed: {error}", where=self._engine.name) from error

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        self._requests = {}

    def _run(self, inputs: tuple[Buffer, ...], batch: int) -> tuple[Buffer, ...]:
        request = self._requests[batch]
        arrays = [np.ascontiguousarray(b.to_host()).reshape(b.spec.concrete()) for b in inputs]
        for index, (buffer, array) in enumerate(zip(inputs, arrays, strict=True)):
            request.set_input_tensor(index, shared_tensor(array, buffer.spec.dtype))
        outputs = []
        for index, spec in enumerate(self._engine.outputs):
            shape = tuple(int(d) for d in request.model_outputs[index].shape)
            outputs.append(self._engine.pool.take(spec, shape))
            request.set_output_tensor(index, outputs[-1].tensor)
        # Started and waited for, the call runs on the stream's own thread, whose caches and worker threads stay
        # with it; ``infer()`` would run on this one, a different one in each engine of a chain (6 % slower).
        request.start_async()
        request.wait()
        return tuple(HostBuffer(output.spec, output.array) for output in outputs)
