"""Running an ONNX Runtime session: nothing is copied on the way in or out."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stagekit.calls import CallCheck, ThreadCall
from stagekit.errors import EngineError
from stagekit.graph.spec import TensorSpec
from stagekit.target import Buffer, HostBuffer

BFLOAT16 = 16
"""``TensorProto.BFLOAT16``: numpy has no such type, so ONNX Runtime is told."""


class OrtEngine:
    """A session and what it takes and gives."""

    def __init__(
        self,
        session: Any,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batches: tuple[int, ...],
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.batches = batches
        self._session: Any = session
        self.check = CallCheck(name, inputs, self.batches)
        self._lanes: weakref.WeakSet[OrtLane] = weakref.WeakSet()

    def lane(self) -> OrtLane:
        """A thread of its own; a session may be run from many at once."""
        _ = self.session
        lane = OrtLane(self)
        self._lanes.add(lane)
        return lane

    @property
    def session(self) -> Any:
        if self._session is None:
            raise EngineError("the engine is closed", where=self.name)
        return self._session

    def close(self) -> None:
        """Lets calls under way finish and frees the session; buffers already given out stay valid."""
        self._session = None
        for lane in list(self._lanes):
            lane.close()


class OrtLane:
    """Calls one after the other on a thread of its own."""

    def __init__(self, engine: OrtEngine) -> None:
        self._engine = engine
        self._outputs = {batch: [s.bind(batch=batch) for s in engine.outputs] for batch in engine.batches}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onnxruntime-lane")

    def submit(self, inputs: Sequence[Buffer], batch: int) -> ThreadCall:
        """Starts a call; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError: the engine is closed.
            UsageError: the batch size, number, type or shape of the inputs is not the engine's.
        """
        session = self._engine.session
        self._engine.check(inputs, batch)
        try:
            future = self._thread.submit(self._run, session, tuple(inputs), batch)
        except RuntimeError as error:  # closed by another thread since it was looked at
            raise EngineError("the engine is closed", where=self._engine.name) from error
        return ThreadCall(self._engine.name, future)

    def run(self, inputs: Sequence[Buffer], batch: int) -> tuple[Buffer, ...]:
        """A call in the calling thread: nothing has to wake up and nothing to be waited for.

        Raises:
            EngineError, UsageError: as :meth:`submit`.
        """
        session = self._engine.session
        self._engine.check(inputs, batch)
        try:
            return self._run(session, tuple(inputs), batch)
        except Exception as error:
            raise EngineError(f"the call failed: {error}", where=self._engine.name) from error

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _run(self, session: Any, inputs: tuple[Buffer, ...], batch: int) -> tuple[Buffer, ...]:
        binding = session.io_binding()
        for spec, buffer in zip(self._engine.inputs, inputs, strict=True):
            binding.bind_ortvalue_input(spec.name, _to_value(buffer))
        for spec in self._engine.outputs:
            # Without a buffer of ours: the session allocates a new one for every call.
            binding.bind_output(spec.name, "cpu")
        session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return tuple(_to_buffer(s, v) for s, v in zip(self._outputs[batch], values, strict=True))


@dataclass(frozen=True, slots=True)
class OrtBuffer(HostBuffer):
    """An output in ordinary memory, with ONNX Runtime's own value for whichever engine reads it next."""

    value: Any


class OrtMemory:
    """Keeps ONNX Runtime's memory alive under a numpy array (the array's ``base``), and read-only."""

    def __init__(self, value: Any) -> None:
        self._value = value
        nbytes = value.tensor_size_in_bytes()
        self.__array_interface__ = {
            "data": (value.data_ptr(), True),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def _to_value(buffer: Buffer) -> Any:
    """An OrtValue over the buffer's own memory; only an array that is not dense in C order is copied."""
    from onnxruntime import OrtValue

    if type(buffer) is OrtBuffer:
        return buffer.value
    array = np.ascontiguousarray(buffer.to_host()).reshape(buffer.spec.concrete())
    if buffer.spec.dtype == "bfloat16":
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), BFLOAT16)
    return OrtValue.ortvalue_from_numpy(array)


def _to_buffer(spec: TensorSpec, value: Any) -> OrtBuffer:
    shape = tuple(value.shape())
    array = np.asarray(OrtMemory(value)).view(spec.numpy_dtype).reshape(shape)
    return OrtBuffer(spec if spec.shape == shape else replace(spec, shape=shape), array, value)
