"""CUDA and TensorRT on the host, as late as the rules allow.

Work put on a stream is not done until somebody waits for it, and then only as far as needed. So a block that goes
back to its pool too early, or an event that nobody waits for, shows as a wrong result.
"""

# ruff: noqa: N815
from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Status(Enum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorNotReady = 600


class CopyKind(Enum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Stream:
    """Work in order; ``run`` does the first ``count`` pieces."""

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self.work: list[Callable[[], None]] = []
        self.done = 0

    def __int__(self) -> int:
        return self.handle

    def run(self, count: int) -> None:
        while self.done < count:
            self.done += 1
            self.work[self.done - 1]()


class FakeEvent:
    """A place on a stream."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.place = 0

    def force(self) -> None:
        if self.stream is not None:
            self.stream.run(self.place)


class FakeRuntime:
    """The functions of ``cuda.bindings.runtime`` that the target uses."""

    cudaError_t = Status
    cudaMemcpyKind = CopyKind
    cudaStreamNonBlocking = 1
    cudaEventDisableTiming = 2

    def __init__(self) -> None:
        self.blocks: dict[int, Array] = {}
        # Kept for as long as this lives: late work on a freed block must show as a wrong result, not as a broken heap.
        self.freed: list[Array] = []
        self.streams: dict[int, Stream] = {}
        self.copies: list[CopyKind] = []
        self.memory = 2**30
        self.last_error = Status.cudaSuccess

    def _failing(self, status: Status) -> Status:
        self.last_error = status
        return status

    def cudaGetLastError(self) -> tuple[Status]:
        status, self.last_error = self.last_error, Status.cudaSuccess
        return (status,)

    def cudaSetDevice(self, index: int) -> tuple[Status]:
        return (Status.cudaSuccess if index == 0 else self._failing(Status.cudaErrorInvalidValue),)

    def cudaMalloc(self, nbytes: int) -> tuple[Status, int]:
        if nbytes + sum(block.nbytes for block in self.blocks.values()) > self.memory:
            return self._failing(Status.cudaErrorMemoryAllocation), 0
        block = np.full(nbytes, 0xAB, np.uint8)
        self.blocks[block.ctypes.data] = block
        return Status.cudaSuccess, block.ctypes.data

    cudaMallocHost = cudaMalloc

    def cudaFree(self, address: int) -> tuple[Status]:
        self.freed.append(self.blocks.pop(address))
        self.freed[-1][:] = 0xCD
        return (Status.cudaSuccess,)

    cudaFreeHost = cudaFree

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Status, Stream]:
        stream = Stream(1000 + len(self.streams))
        self.streams[stream.handle] = stream
        return Status.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Status]:
        return (Status.cudaSuccess,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Status, FakeEvent]:
        return Status.cudaSuccess, FakeEvent()

    def cudaEventDestroy(self, event: FakeEvent) -> tuple[Status]:
        return (Status.cudaSuccess,)

    def cudaEventRecord(self, event: FakeEvent, stream: Stream) -> tuple[Status]:
        event.stream, event.place = stream, len(stream.work)
        return (Status.cudaSuccess,)

    def cudaStreamWaitEvent(self, stream: Stream, event: FakeEvent, flags: int) -> tuple[Status]:
        stream.work.append(event.force)
        return (Status.cudaSuccess,)

    def cudaEventSynchronize(self, event: FakeEvent) -> tuple[Status]:
        event.force()
        return (Status.cudaSuccess,)

    def cudaEventQuery(self, event: FakeEvent) -> tuple[Status]:
        passed = event.stream is None or event.stream.done >= event.place
        return (Status.cudaSuccess if passed else self._failing(Status.cudaErrorNotReady),)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Status]:
        stream.run(len(stream.work))
        return (Status.cudaSuccess,)

    def cudaMemcpyAsync(
        self, destination: int, source: int, nbytes: int, kind: CopyKind, stream: Stream
    ) -> tuple[Status]:
        self.copies.append(kind)
        stream.work.append(lambda: ctypes.memmove(destination, source, nbytes) and None)
        return (Status.cudaSuccess,)


class FakeContext:
    """An ``IExecutionContext`` that computes ``y = function(x)`` on floats."""

    refuses = False

    def __init__(
        self, runtime: FakeRuntime, function: Callable[[Array], Array], config: FakeRuntimeConfig | None = None
    ) -> None:
        self._runtime = runtime
        self._function = function
        self._config = None if config is None else weakref.ref(config)
        self._address: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._shape

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._address[name] = address
        return address % 4 == 0

    def execute_async_v3(self, stream: int) -> bool:
        assert self._config is None or self._config() is not None, "its configuration is gone"
        shape, source, destination = self._shape, self._address["x"], self._address["y"]
        self._runtime.streams[stream].work.append(lambda: self._compute(shape, source, destination))
        return not self.refuses

    def _compute(self, shape: tuple[int, ...], source: int, destination: int) -> None:
        count = int(np.prod(shape))
        read = np.ctypeslib.as_array(ctypes.cast(source, ctypes.POINTER(ctypes.c_float)), (count,))
        written = np.ctypeslib.as_array(ctypes.cast(destination, ctypes.POINTER(ctypes.c_float)), (count,))
        written[:] = self._function(read.reshape(shape)).ravel()


class FakeKernelCache:
    """An ``IRuntimeCache``; a context adds a kernel that is missing, and takes note of having had to."""

    def __init__(self) -> None:
        self.kernels: list[str] = []
        self.compiled: list[str] = []

    def deserialize(self, content: bytes) -> bool:
        if not content.startswith(b"kernels:"):
            return False
        self.kernels = content.removeprefix(b"kernels:").decode().split()
        return True

    def serialize(self) -> bytes:
        return b"kernels:" + " ".join(self.kernels).encode()

    def need(self, kernel: str) -> None:
        if kernel not in self.kernels:
            self.kernels.append(kernel)
            self.compiled.append(kernel)


class FakeRuntimeConfig:
    """An ``IRuntimeConfig``."""

    cache: FakeKernelCache | None = None

    def create_runtime_cache(self) -> FakeKernelCache:
        return FakeKernelCache()

    def set_runtime_cache(self, cache: FakeKernelCache) -> bool:
        self.cache = cache
        return True


class FakeVendorEngine:
    """An ``ICudaEngine``; with a name for its kernel it compiles like TensorRT-RTX."""

    def __init__(self, runtime: FakeRuntime, function: Callable[[Array], Array], kernel: str = "") -> None:
        self._made = (runtime, function)
        self._kernel = kernel
        self.caches: list[FakeKernelCache] = []

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, config: FakeRuntimeConfig | None = None) -> FakeContext:
        if config is not None and config.cache is not None:
            config.cache.need(self._kernel)
            self.caches.append(config.cache)
        return FakeContext(*self._made, config)
