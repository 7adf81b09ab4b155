"""Resident memory of this process, and the most since it was last asked to forget."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def resident() -> int:
    """Bytes resident now; the peak where the system does not tell."""
    return _status("VmRSS") or _peak_ever()


def peak() -> int:
    """The most bytes resident since :func:`forget_peak`; since the process began where Linux does not let us."""
    return _status("VmHWM") or _peak_ever()


def forget_peak() -> None:
    """Starts the peak again from what is resident now."""
    with suppress(OSError):
        CLEAR.write_text("5", encoding="ascii")


def _status(key: str) -> int:
    if not STATUS.is_file():
        return 0
    lines = STATUS.read_text(encoding="ascii", errors="replace").splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), 0)


def _peak_ever() -> int:
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used
