"""Running a program as an engine: each lane has a thread, and floats at the edges are quantised as ONNX says."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from stagekit.errors import EngineError, UsageError
from stagekit.graph import TensorSpec
from stagekit.target import Buffer, HostBuffer
from stagekit_fixedpoint.arithmetic import dtype_of
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.program import Array, Tensor


class FixedPointEngine:
    """A program, made ready, and what it takes and gives."""

    def __init__(
        self,
        fast: Fast,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batches: tuple[int, ...],
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.batches = batches
        self._fast: Fast | None = fast
        self._lanes: weakref.WeakSet[FixedPointLane] = weakref.WeakSet()

    @property
    def fast(self) -> Fast:
        """The interpreter; its ``choices`` say how each step is computed and why that is exact."""
        if self._fast is None:
            raise EngineError("the engine is closed", where=self.name)
        return self._fast

    def lane(self) -> FixedPointLane:
        """A thread of its own; the interpreter may be run from many at once."""
        lane = FixedPointLane(self, self.fast)
        self._lanes.add(lane)
        return lane

    def close(self) -> None:
        """Lets calls under way finish; buffers already given out stay valid."""
        self._fast = None
        for lane in list(self._lanes):
            lane.close()


class FixedPointLane:
    """Calls one after the other on a thread of its own."""

    def __init__(self, engine: FixedPointEngine, fast: Fast) -> None:
        self._engine = engine
        self._fast = fast
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fixedpoint-lane")

    def submit(self, inputs: Sequence[Buffer], batch: int) -> FixedPointCall:
        """Starts a call; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError: the engine is closed.
            UsageError: the batch size, number, type or shape of the inputs is not the engine's.
        """
        _ = self._engine.fast
        check_call(self._engine, inputs, batch)
        return FixedPointCall(self._engine.name, self._thread.submit(self._run, tuple(inputs)))

    def close(self) -> None:
        self._thread.shutdown(wait=True)

    def _run(self, inputs: tuple[Buffer, ...]) -> tuple[Buffer, ...]:
        program = self._fast.program
        stored = {
            name: to_stored(buffer.to_host(), program.tensors[name])
            for name, buffer in zip(program.inputs, inputs, strict=True)
        }
        values = self._fast.run(stored)
        results = []
        for name, spec in zip(program.outputs, self._engine.outputs, strict=True):
            array = np.ascontiguousarray(from_stored(values[name], program.tensors[name], spec.dtype == "float32"))
            array.flags.writeable = False
            results.append(
                HostBuffer(TensorSpec(spec.name, spec.dtype, array.shape, spec.layout, spec.quantization), array)
            )
        return tuple(results)


class FixedPointCall:
    """A call under way; see :class:`stagekit.target.Completion`."""

    def __init__(self, engine: str, future: Future[tuple[Buffer, ...]]) -> None:
        self._engine = engine
        self._future = future

    def wait(self) -> tuple[Buffer, ...]:
        try:
            return self._future.result()
        except Exception as error:
            raise EngineError(f"the call failed: {error}", where=self._engine) from error

    def done(self) -> bool:
        return self._future.done()


def to_stored(array: Array, tensor: Tensor) -> Array:
    """Floats quantised to nearest, ties to even, as ONNX's QuantizeLinear; integers as they are."""
    if array.dtype.kind != "f":
        return array
    codes = np.rint(array.astype(np.float32) / np.float32(tensor.scale)) + tensor.zero_point
    return np.asarray(np.clip(codes, tensor.format.lowest, tensor.format.highest).astype(dtype_of(tensor.format)))


def from_stored(array: Array, tensor: Tensor, as_float: bool) -> Array:
    """Stored integers, or the real numbers they stand for."""
    if not as_float:
        return array
    return (array.astype(np.float32) - np.float32(tensor.zero_point)) * np.float32(tensor.scale)


def check_call(engine: FixedPointEngine, inputs: Sequence[Buffer], batch: int) -> None:
    """Raises UsageError, naming the tensor, unless the engine can take these inputs."""
    if batch not in engine.batches:
        sizes = ", ".join(map(str, engine.batches))
        raise UsageError(f"it is built for batches of {sizes}, not {batch}", where=engine.name)
    if len(inputs) != len(engine.inputs):
        names = ", ".join(spec.name for spec in engine.inputs)
        raise UsageError(f"expected {len(engine.inputs)} inputs ({names}), got {len(inputs)}", where=engine.name)
    for spec, buffer in zip(engine.inputs, inputs, strict=True):
        shape = (batch, *spec.shape[1:])
        if buffer.spec.dtype != spec.dtype or buffer.spec.shape != shape:
            raise UsageError(
                f"input {spec.name!r}: expected {spec.dtype} {list(shape)}, got {buffer.spec.dtype}"
                f" {list(buffer.spec.shape)}",
                where=engine.name,
            )
