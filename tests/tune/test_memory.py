"""The allocator keeps what a step frees."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from stagekit.tune.memory import keep_freed_memory
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
assert {keep} is False or keep_freed_memory()

def step():
    blocks = [libc.malloc(8 << 20) for _ in range(8)]
    for block in blocks:
        ctypes.memset(block, 1, 8 << 20)
    for block in blocks:
        libc.free(block)

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc is asked")
def test_what_was_freed_is_not_mapped_again() -> None:
    faults = {
        keep: int(subprocess.run([sys.executable, "-c", PROGRAM.format(keep=keep)], stdout=-1, check=True).stdout)
        for keep in (False, True)
    }
    assert faults[False] > 100  # 8 MiB blocks come from the system and go back to it
    assert faults[True] < faults[False] / 10
