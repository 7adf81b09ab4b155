"""The process's one ``openvino.Core``.

The plugin that a core makes for the CPU gives the thread that makes it a stack for signal handlers (``sigaltstack``;
AMX needs a large one) and unmaps that stack when the core and the last model of it are gone. The stack before is put
back only if this happens on the same thread and in the reverse order of making (OpenVINO 2026.4).
Otherwise the next signal, such as Ctrl-C in Python, writes to memory that is gone, or that by then is Python's heap.
A core that is never given up keeps its plugin, and the stack with it.
"""

from __future__ import annotations

from functools import cache
from threading import Lock
from types import ModuleType
from typing import Any

_making = Lock()


def shared_core(vendor: ModuleType) -> Any:
    """The core of the module ``openvino``, made at the first call."""
    with _making:
        return _core(vendor)


@cache
def _core(vendor: ModuleType) -> Any:
    return vendor.Core()
