"""Running plans on a GPU: tensors stay on the device between engines, a lane is a pair of streams.

``execute_async_v3`` enqueues and returns; nothing here blocks but ``wait`` and ``to_host``. A tensor that another
lane made is waited for on the GPU, by an event, not by this thread. Inputs from the host go through pinned memory
on a stream of their own, so that they travel while the call before computes.

https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ExecutionContext.html
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from stagekit.calls import CallCheck
from stagekit.errors import EngineError
from stagekit.graph import TensorSpec
from stagekit.target import Buffer
from stagekit_tensorrt.cuda import Block, Cuda, Event, host_view
from stagekit_tensorrt.kernel_cache import KernelCache
from stagekit_tensorrt.vendor_log import VendorLog, last_words

CALLS_IN_FLIGHT = 8
"""Calls of one lane that may be under way; a further submit waits for the oldest."""


class DeviceBuffer:
    """A tensor on the GPU, there once ``ready`` has passed; see :class:`stagekit.target.Buffer`."""

    def __init__(self, spec: TensorSpec, block: Block, ready: Event, cuda: Cuda) -> None:
        self.spec = spec
        self.block = block
        self.ready = ready
        self.cuda = cuda
        self._host: np.ndarray[Any, Any] | None = None

    def to_host(self) -> np.ndarray[Any, Any]:
        """Copied once; read-only."""
        if self._host is None:
            self.cuda.activate()
            self.ready.wait()
            staged = self.cuda.to_host(self.block, self.spec.nbytes())
            whole = host_view(staged, writable=False)[: self.spec.nbytes()]
            self._host = whole.view(self.spec.numpy_dtype).reshape(self.spec.concrete())
        return self._host


@dataclass(frozen=True)
class TrtCall:
    """A call under way; see :class:`stagekit.target.Completion`."""

    engine: str
    outputs: tuple[DeviceBuffer, ...]
    held: tuple[object, ...]
    finished: Event

    def wait(self) -> tuple[Buffer, ...]:
        try:
            self.finished.wait()
        except EngineError as error:
            raise EngineError(f"the call failed: {error.what}", where=self.engine) from error
        return self.outputs

    def done(self) -> bool:
        return self.finished.done()


class TrtEngine:
    """A deserialised plan.

    Args:
        vendor_engine: an ``ICudaEngine``.
        runtime: of the vendor's, which must outlive it.
        log: the runtime's, which must outlive that.
        kernels: where the runtime compiles kernels, they are kept there.
        weights: bytes of the plan's inputs that are the same in every call, by name.
    """

    def __init__(
        self,
        vendor_engine: Any,
        runtime: object,
        log: VendorLog | None,
        cuda: Cuda,
        name: str,
        inputs: tuple[TensorSpec, ...],
        outputs: tuple[TensorSpec, ...],
        batches: tuple[int, ...],
        kernels: KernelCache | None = None,
        weights: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> None:
        self.name = name
        self.inputs = inputs
        self.outputs = outputs
        self.batches = batches
        self.check = CallCheck(name, inputs, batches)
        self.cuda = cuda
        self.log = log
        self.kernels = kernels
        self.weights = {name: cuda.upload(array) for name, array in (weights or {}).items()}
        self._runtime: object = runtime
        self._engine: Any = vendor_engine
        self._lanes: weakref.WeakSet[TrtLane] = weakref.WeakSet()

    @property
    def vendor_engine(self) -> Any:
        if self._engine is None:
            raise EngineError("the engine is closed", where=self.name)
        return self._engine

    def lane(self) -> TrtLane:
        """An execution context with two streams of its own."""
        lane = TrtLane(self, self.vendor_engine)
        self._lanes.add(lane)
        return lane

    def close(self) -> None:
        """Lets calls under way finish and frees the plan; buffers already given out stay valid."""
        for lane in list(self._lanes):
            lane.close()
        if self.kernels is not None:
            self.kernels.save()
        self._engine = None
        self._runtime = None
        self.weights = {}


class TrtLane:
    """One execution context; calls run one after the other on its stream."""

    def __init__(self, engine: TrtEngine, vendor_engine: Any) -> None:
        self._engine = engine
        self._cuda = engine.cuda
        self._cuda.activate()
        self.context: Any
        self._config: Any = None
        if engine.kernels is not None:
            self.context, self._config = engine.kernels.context(vendor_engine)
        else:
            self.context = vendor_engine.create_execution_context()
        if self.context is None:
            raise EngineError(f"TensorRT gives no execution context{last_words(engine.log)}", where=engine.name)
        for name, block in engine.weights.items():
            self._bind(name, block.address, None)
        self._compute = self._cuda.stream()
        self._copies = self._cuda.stream()
        for stream in (self._compute, self._copies):
            weakref.finalize(self, self._cuda.runtime.cudaStreamDestroy, stream).atexit = False
        self._in_flight: deque[TrtCall] = deque()
        self._lock = threading.Lock()

    def submit(self, inputs: Sequence[Buffer], batch: int) -> TrtCall:
        """Starts a call; see :class:`stagekit.target.Lane`.

        Raises:
            EngineError: the engine is closed, or TensorRT refuses the call.
            UsageError: the batch size, number, type or shape of the inputs is not the engine's.
        """
        self._engine.check(inputs, batch)
        with self._lock:
            if self.context is None:
                raise EngineError("the lane is closed", where=self._engine.name)
            self._cuda.activate()
            self._let_go()
            try:
                return self._start(inputs, batch)
            except BaseException:
                self._drain()  # what was begun uses blocks that go back to the pools with this exception
                raise

    def close(self) -> None:
        """Lets calls under way finish and frees the context; whoever waits for a failed call hears of it there."""
        with self._lock:
            while self._in_flight:
                with suppress(EngineError):
                    self._finish_oldest()
            self.context = None

    def __del__(self) -> None:
        # What calls under way touch must not go back to the pools before they are done.
        with suppress(Exception):
            self.close()

    def _start(self, inputs: Sequence[Buffer], batch: int) -> TrtCall:
        held: list[object] = list(inputs)
        for spec, buffer in zip(self._engine.inputs, inputs, strict=True):
            block = self._on_device(buffer, held)
            self._bind(spec.name, block.address, buffer.spec.concrete())
        outputs = []
        for spec in self._engine.outputs:
            shape = tuple(int(d) for d in self.context.get_tensor_shape(spec.name))
            bound = TensorSpec(spec.name, spec.dtype, shape, spec.layout, spec.quantization)
            outputs.append((bound, self._cuda.device.take(bound.nbytes())))
            self._bind(spec.name, outputs[-1][1].address, None)
        if not self.context.execute_async_v3(int(self._compute)):
            raise EngineError(f"TensorRT refused the call{last_words(self._engine.log)}", where=self._engine.name)
        finished = self._cuda.mark(self._compute)
        buffers = tuple(DeviceBuffer(s, block, finished, self._cuda) for s, block in outputs)
        call = TrtCall(self._engine.name, buffers, tuple(held), finished)
        self._in_flight.append(call)
        return call

    def _on_device(self, buffer: Buffer, held: list[object]) -> Block:
        """The buffer's block, made or waited for on the GPU by the time the call computes."""
        if isinstance(buffer, DeviceBuffer) and buffer.cuda is self._cuda:
            self._cuda.wait_for(self._compute, buffer.ready)
            return buffer.block
        block, staged = self._cuda.to_device(buffer.to_host(), self._copies)
        self._cuda.wait_for(self._compute, self._cuda.mark(self._copies))
        held += [block, staged]
        return block

    def _bind(self, name: str, address: int, shape: tuple[int, ...] | None) -> None:
        if shape is not None and not self.context.set_input_shape(name, shape):
            raise EngineError(f"TensorRT refuses {list(shape)} for input {name!r}", where=self._engine.name)
        if not self.context.set_tensor_address(name, address):
            raise EngineError(f"TensorRT refuses the address of tensor {name!r}", where=self._engine.name)

    def _drain(self) -> None:
        for stream in (self._copies, self._compute):
            with suppress(EngineError):
                self._cuda.call("cudaStreamSynchronize", stream)

    def _let_go(self) -> None:
        """Drops what finished calls held; waits for the oldest where too many are under way."""
        while self._in_flight and (self._in_flight[0].done() or len(self._in_flight) >= CALLS_IN_FLIGHT):
            self._finish_oldest()

    def _finish_oldest(self) -> None:
        # The call leaves the queue, and lets go of its blocks, when it is done and not before.
        try:
            self._in_flight[0].finished.wait()
        finally:
            self._in_flight.popleft()
