"""Running compiled models: inputs are not copied, outputs are never overwritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer
from stagekit_openvino.memory import OutputBlocks, OvBuffer, shared_tensor


class OvCall:
    """The calls of one lane; an infer request for each that is under way.

    Args:
        compiled: a model for each batch size.
        outputs: of the engine.
    """

    def __init__(self, compiled: Mapping[int, Any], outputs: Sequence[TensorSpec]) -> None:
        self._compiled = compiled
        self._memory = {batch: _blocks(model, outputs, batch) for batch, model in compiled.items()}
        self._idle = {batch: [self._request(batch)] for batch in compiled}

    def __call__(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        given, wait = self.start(inputs, batch)
        wait()
        return given

    def start(self, inputs: Sequence[Buffer], batch: int) -> tuple[tuple[Buffer, ...], Callable[[], None]]:
        """Starts a call; see :class:`stagekit.calls.Starting`."""
        idle = self._idle[batch]
        request = idle.pop() if idle else self._request(batch)

        def wait() -> None:
            request.wait()
            idle.append(request)

        return request.start(inputs), wait

    def _request(self, batch: int) -> _Request:
        return _Request(self._compiled[batch], self._memory[batch])


class _Request:
    """An infer request, and the memory of the lane for what it gives."""

    def __init__(self, model: Any, outputs: Sequence[OutputBlocks]) -> None:
        self._request = model.create_infer_request()
        self._outputs = outputs
        self._bound: dict[tuple[str, int], Any] = {}
        """The tensors that the request holds, as far as they may come again: those of blocks."""
        self._copies: list[np.ndarray[Any, Any]] = []
        """What the call under way reads that may have no other holder: copies of strided arrays."""

    def start(self, inputs: Sequence[Buffer]) -> tuple[Buffer, ...]:
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
                self._copies.append(array)
        given = tuple(blocks.take() for blocks in self._outputs)
        for index, buffer in enumerate(given):
            if bound.get(("out", index)) is not buffer.tensor:
                request.set_output_tensor(index, buffer.tensor)
                bound["out", index] = buffer.tensor
        # Started and waited for, the call runs on the stream's own thread, whose caches and worker threads stay
        # with it; ``infer()`` would run on this one (6 % slower in a chain).
        request.start_async()
        return given

    def wait(self) -> None:
        """Until the call that was started is done."""
        try:
            self._request.wait()
        finally:
            self._copies.clear()


def _blocks(model: Any, outputs: Sequence[TensorSpec], batch: int) -> list[OutputBlocks]:
    """Memory for the outputs of a model of one batch size."""
    return [
        OutputBlocks(replace(spec.bind(batch=batch), shape=tuple(int(d) for d in port.shape)))
        for spec, port in zip(outputs, model.outputs, strict=True)
    ]
