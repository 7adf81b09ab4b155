"""Kernels that TensorRT-RTX compiled for the GPU at hand, kept in a file: the next process need not compile them.

RTX leaves compiling kernels to the machine that runs an engine. All engines of a process share one ``IRuntimeCache``.
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/work-with-runtime-cache.html
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from stagekit.whole import write_whole


class KernelCache:
    """One file of compiled kernels and the contexts that fill it; what RTX finds foreign in it counts for nothing.

    It must outlive every context that it gave.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._cache: Any = None
        self._kept = b""
        self._lock = threading.Lock()

    def context(self, vendor_engine: Any) -> tuple[Any, Any]:
        """An execution context that takes its kernels from the cache and adds those that are missing.

        The second is its configuration, which must outlive it: ``IExecutionContext.get_runtime_config`` gives it back.

        The calling thread must have a CUDA context: RTX compares the GPU with the one in the file.
        """
        config = vendor_engine.create_runtime_config()
        with self._lock:
            if self._cache is None:
                runtime_cache = self._cache = config.create_runtime_cache()
                with suppress(OSError):
                    self._kept = self.path.read_bytes()
                    runtime_cache.deserialize(self._kept)
            config.set_runtime_cache(self._cache)
            # Kernels are compiled here, into a cache of which nobody says that two threads may fill it.
            return vendor_engine.create_execution_context(config), config

    def save(self) -> None:
        """Writes the file at one stroke where something was added; a folder that cannot be written is no error."""
        with self._lock:
            runtime_cache = self._cache
            content = bytes(runtime_cache.serialize()) if runtime_cache is not None else self._kept
            if content == self._kept:
                return
            with suppress(OSError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                write_whole(self.path, content)
                self._kept = content
