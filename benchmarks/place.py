"""Where and when figures were measured, in words."""

from __future__ import annotations

from collections.abc import Collection

SETS = {"amx_int8": "AMX", "avx512_vnni": "AVX-512 VNNI", "avx_vnni": "AVX-VNNI", "avx512f": "AVX-512", "avx2": "AVX2"}
"""What tells processors of one name apart, by the flags of /proc/cpuinfo, the most telling first."""


def measured_on(cores: int, cpu: str, flags: Collection[str], day: str) -> str:
    """``2 cores of AMD EPYC (AVX2), 2026-11-30``."""
    sets = next((f" ({name})" for flag, name in SETS.items() if flag in flags), "")
    return f"{cores} cores of {cpu}{sets}, {day}"


def place_of(results: dict[str, object]) -> str:
    """Of a file of results with ``machine`` and ``date``."""
    machine = results["machine"]
    assert isinstance(machine, dict)
    return measured_on(machine["cores"], machine["cpu"], machine["flags"], str(results["date"]))
