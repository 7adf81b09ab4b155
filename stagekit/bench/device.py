"""Where and with what something was measured."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from stagekit.bench.results import DeviceFacts
from stagekit.cpu import CPUINFO, INSTRUCTION_SETS, usable_cores
from stagekit.versions import tool_versions

PACKAGES = ("stagekit", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx", "numpy", "mlcommons-loadgen")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
MEMINFO = Path("/proc/meminfo")


def device_facts() -> DeviceFacts:
    """This machine; what an operating system does not tell is left out."""
    cpuinfo = _pairs(CPUINFO)
    flags = cpuinfo.get("flags", cpuinfo.get("Features", "")).split()
    memory = _pairs(MEMINFO).get("MemTotal", "").split()
    return DeviceFacts(
        cpu=cpuinfo.get("model name") or platform.processor() or platform.machine(),
        flags=tuple(sorted(INSTRUCTION_SETS.intersection(flags))),
        cores=usable_cores(),
        machine=platform.machine(),
        governor=GOVERNOR.read_text(encoding="ascii").strip() if GOVERNOR.is_file() else None,
        memory=1024 * int(memory[0]) if memory else None,
        accelerator=_asked("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        system=platform.platform(),
    )


def versions() -> dict[str, str]:
    """Of everything that shapes a figure."""
    return {"python": platform.python_version(), **tool_versions(*PACKAGES)}


def commit() -> str | None:
    """The git commit that this code is from, ``-dirty`` where it was changed since; none outside a checkout."""
    here = str(Path(__file__).parent)
    return _asked("git", "-C", here, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def command_line() -> tuple[str, ...]:
    """How this process was started."""
    return (Path(sys.argv[0]).name, *sys.argv[1:])


def _asked(*command: str) -> str | None:
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def _pairs(path: Path) -> dict[str, str]:
    """``key: value`` lines; the first of each key."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        found.setdefault(key.strip(), value.strip())
    return found
