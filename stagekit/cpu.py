"""What compiled code for an ordinary processor depends on, and how many cores there are to use."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

INSTRUCTION_SETS = frozenset(
    {
        # x86-64: what MLAS, oneDNN and OpenVINO's code generators choose kernels by.
        *("sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni"),
        *("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_int8", "amx_bf16", "amx_fp16"),
        # AArch64.
        *("asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svebf16", "svei8mm", "sme"),
    }
)
"""The flags of /proc/cpuinfo that decide which kernels a compiler picks, and so what an engine holds."""


@cache
def instruction_sets() -> str:
    """The architecture and its relevant instruction sets, e.g. ``x86_64+avx+avx2+fma``.

    Equal strings mean that an engine compiled on one machine fits the other. Where the operating system has
    no ``/proc/cpuinfo`` the architecture stands alone.
    """
    return described(
        platform.machine(), CPUINFO.read_text(encoding="ascii", errors="replace") if CPUINFO.is_file() else ""
    )


def described(machine: str, cpuinfo: str) -> str:
    """:func:`instruction_sets` from its two sources."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return "+".join([machine, *sorted(INSTRUCTION_SETS.intersection(value.split()))])
    return machine


def computes_bf16(processor: str | None = None) -> bool:
    """Whether a processor, this one if none is named, multiplies bfloat16 itself.

    Args:
        processor: as :func:`instruction_sets` describes it.
    """
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint((processor or instruction_sets()).split("+"))


def adds_pairs_in_16_bits(processor: str | None = None) -> bool:
    """Whether kernels for bytes may saturate: on x86 without VNNI they add two products u8 x s8 in 16 bits.

    Two weights of 7 bits fit, whatever they are multiplied with: 2 * 255 * 63 < 2**15.

    Args:
        processor: as in :func:`computes_bf16`.
    """
    machine, *sets = (processor or instruction_sets()).split("+")
    return machine in ("x86_64", "AMD64") and {"avx512_vnni", "avx_vnni"}.isdisjoint(sets)


def usable_cores() -> int:
    """Cores that this process may run on; containers and ``taskset`` give fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
