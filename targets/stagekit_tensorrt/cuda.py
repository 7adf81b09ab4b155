"""Device memory, pinned host memory, streams and events through NVIDIA's ``cuda-bindings``.

Blocks are pooled by size: ``cudaMalloc`` and ``cudaFree`` wait for the whole device, a pool does not. A block goes
back when nobody holds it, and a lane holds what its calls under way touch, so no call meets a block that another
still uses.

https://nvidia.github.io/cuda-python/cuda-bindings/latest/module/runtime.html
"""

from __future__ import annotations

import weakref
from collections import defaultdict, deque
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from stagekit.errors import EngineError, TargetUnavailable

SPARE_BLOCKS = 16
"""Free blocks kept for each size, as many as two lanes with all calls under way need; more go back to CUDA."""

HostArray = np.ndarray[Any, np.dtype[np.uint8]]


def runtime_module() -> ModuleType:
    """``cuda.bindings.runtime``.

    Raises:
        TargetUnavailable: it does not import.
    """
    try:
        from cuda.bindings import runtime
    except (ImportError, OSError) as error:
        raise TargetUnavailable(
            f"cuda-bindings does not import: {error}", where="tensorrt", remedy="pip install cuda-bindings"
        ) from error
    module: ModuleType = runtime
    return module


class Block:
    """Bytes at ``address``; they go back to their pool when the last reference is gone."""

    __slots__ = ("__weakref__", "address", "nbytes")

    def __init__(self, address: int, nbytes: int) -> None:
        self.address = address
        self.nbytes = nbytes


class Cuda:
    """One GPU as this target uses it."""

    def __init__(self, index: int) -> None:
        self.runtime = runtime_module()
        self.index = index
        self.activate()
        self.device = Pool(self._malloc, self._free)
        self.pinned = Pool(self._malloc_host, self._free_host)
        self._transfers = self.stream()

    def activate(self) -> None:
        """Makes the GPU the calling thread's own; CUDA keeps that choice a thread."""
        self.call("cudaSetDevice", self.index)

    def call(self, name: str, *arguments: Any) -> Any:
        """A function of the CUDA runtime; returns what it gives beside its status.

        Raises:
            EngineError: it failed; names the function and CUDA's reason.
        """
        status, *values = getattr(self.runtime, name)(*arguments)
        if status != self.runtime.cudaError_t.cudaSuccess:
            self.runtime.cudaGetLastError()  # else whoever asks next takes it for an error of their own
            raise EngineError(f"{name} failed: {status.name}", where=f"GPU:{self.index}")
        return values[0] if len(values) == 1 else tuple(values)

    def stream(self) -> Any:
        """A stream that does not wait for the default one."""
        return self.call("cudaStreamCreateWithFlags", self.runtime.cudaStreamNonBlocking)

    def mark(self, stream: Any) -> Event:
        """An event at this place of a stream."""
        event = Event(self)
        self.call("cudaEventRecord", event.handle, stream)
        return event

    def wait_for(self, stream: Any, event: Event) -> None:
        """What comes later on the stream waits for the event; this thread does not."""
        self.call("cudaStreamWaitEvent", stream, event.handle, 0)

    def to_device(self, array: np.ndarray[Any, Any], stream: Any) -> tuple[Block, Block]:
        """Copies an array on a stream; returns the device block, and the pinned one to hold until it is done."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        staged, block = self.pinned.take(flat.nbytes), self.device.take(flat.nbytes)
        host_view(staged)[:] = flat
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", block.address, staged.address, flat.nbytes, kind, stream)
        return block, staged

    def upload(self, array: np.ndarray[Any, Any]) -> Block:
        """Copies an array to the device and waits for that."""
        block, staged = self.to_device(array, self._transfers)
        self.call("cudaStreamSynchronize", self._transfers)
        del staged  # not before
        return block

    def to_host(self, block: Block, nbytes: int) -> Block:
        """Copies a block to pinned memory and waits for that."""
        staged = self.pinned.take(nbytes)
        kind = self.runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", staged.address, block.address, nbytes, kind, self._transfers)
        self.call("cudaStreamSynchronize", self._transfers)
        return staged

    def _malloc(self, nbytes: int) -> int:
        return int(self.call("cudaMalloc", nbytes))

    def _free(self, address: int) -> None:
        self.runtime.cudaFree(address)

    def _malloc_host(self, nbytes: int) -> int:
        return int(self.call("cudaMallocHost", nbytes))

    def _free_host(self, address: int) -> None:
        self.runtime.cudaFreeHost(address)


class Event:
    """A mark on a stream that others can wait for; destroyed with its last reference."""

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self.handle = cuda.call("cudaEventCreateWithFlags", cuda.runtime.cudaEventDisableTiming)
        weakref.finalize(self, cuda.runtime.cudaEventDestroy, self.handle).atexit = False

    def wait(self) -> None:
        """Blocks this thread until the stream has passed the mark.

        Raises:
            EngineError: work before the mark failed.
        """
        self._cuda.call("cudaEventSynchronize", self.handle)

    def done(self) -> bool:
        (status,) = self._cuda.runtime.cudaEventQuery(self.handle)
        under_way = bool(status == self._cuda.runtime.cudaError_t.cudaErrorNotReady)
        if under_way:
            self._cuda.runtime.cudaGetLastError()  # it counts as an error until somebody asks
        return not under_way


class Pool:
    """Blocks by size."""

    def __init__(self, allocate: Callable[[int], int], free: Callable[[int], None]) -> None:
        self._allocate = allocate
        self._free = free
        self._spare: dict[int, deque[int]] = defaultdict(deque)

    def take(self, nbytes: int) -> Block:
        """A block of that many bytes (of one, where none are asked for)."""
        size = max(nbytes, 1)
        try:
            address = self._spare[size].pop()
        except IndexError:
            address = self._allocated(size)
        block = Block(address, size)
        weakref.finalize(block, self._give_back, address, size).atexit = False
        return block

    def _allocated(self, size: int) -> int:
        """New memory; where there is none left, what is spare goes first."""
        try:
            return self._allocate(size)
        except EngineError:
            for spare in list(self._spare.values()):
                while spare:
                    self._free(spare.pop())
            return self._allocate(size)

    def _give_back(self, address: int, size: int) -> None:
        if len(self._spare[size]) < SPARE_BLOCKS:
            self._spare[size].append(address)
        else:
            self._free(address)


class _PinnedView:
    """A pinned block under numpy's array interface: an array made from it holds it as its ``base``."""

    def __init__(self, block: Block, writable: bool) -> None:
        self._block = block
        self.__array_interface__ = {
            "data": (block.address, not writable),
            "shape": (block.nbytes,),
            "typestr": "|u1",
            "version": 3,
        }


def host_view(block: Block, writable: bool = True) -> HostArray:
    """A pinned block's bytes as an array that keeps it alive."""
    return np.asarray(_PinnedView(block, writable))
