"""Memory that one step frees and the next one needs again."""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MOST_TRIM, _MOST_MMAP = 2**31 - 1, 32 << 20  # the largest values that mallopt takes


def keep_freed_memory() -> bool:
    """Asks the allocator not to hand freed memory back to the system; whether it was asked.

    A step frees all its activations, glibc returns them, and the next step has them mapped and zeroed page by page
    again: a twentieth of a step's time. It holds for the whole process, whose size then stays at its peak. Other
    allocators than glibc's are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _MOST_MMAP) and mallopt(_M_TRIM_THRESHOLD, _MOST_TRIM))
