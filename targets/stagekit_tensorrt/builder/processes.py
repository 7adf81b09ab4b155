"""Each engine is built in a process forked from one that has the vendor's library loaded.

So a crash of the vendor's code ends that build and nothing else, and starting costs a build almost nothing.
"""

from __future__ import annotations

import ctypes
import os
import sys
import traceback
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from .build import build
from .vendors import BuildFailed, import_vendor

USAGE = 2
"""The exit code of a command that makes no sense."""

ASK, NO_RANDOM_ADDRESSES = 0xFFFFFFFF, 0x0040000
"""Of personality(2): what it is now; ``ADDR_NO_RANDOMIZE``."""

ALLOCATOR = "glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=0"
"""Every build with a convolution in it fills 64 MiB, page by page. With the allocator's caches for threads, a tenth
faster, up to half of the builds of a graph with two outputs list them the other way round.

https://www.gnu.org/software/libc/manual/html_node/Memory-Allocation-Tunables.html
"""


def main(arguments: list[str]) -> int:
    """Builds every request named, whatever becomes of the others; returns the first exit code that is not 0."""
    if arguments[:1] == ["--serve"]:
        return serve(arguments[1])
    if not arguments or {"-h", "--help"} & set(arguments):
        print(sys.modules[__package__].__doc__)
        return 0 if arguments else USAGE
    requests: list[Path] = []
    for path in map(Path, arguments):
        found = sorted(path.glob("*.request.json")) if path.is_dir() else [path] if path.is_file() else []
        if not found:
            print(f"FAILED: {path}: there is no such file, or no *.request.json in this folder")
            return USAGE
        requests += found
    codes = [build_apart(request) for request in requests]
    for request, code in zip(requests, codes, strict=True):
        if code < 0:
            print(f"FAILED: {request.name}: the builder crashed (signal {-code})", flush=True)
    return next((abs(code) for code in codes if code), 0)


def serve(builder: str) -> int:
    """Builds the request on each line of standard input; ends each log with a line ``ENDED: <exit code>``."""
    if _imports_without_driver(builder):
        with suppress(ImportError):  # each request will say so
            import_vendor(builder)
    for line in sys.stdin:
        code = build_apart(Path(line.rstrip("\n")))
        print(f"\nENDED: {code}", flush=True)  # a crash may have left half a line
    return 0


def _imports_without_driver(builder: str) -> bool:
    """Whether that is known, as of RTX alone: a process forked from one that has begun to use CUDA cannot use it."""
    return builder == "tensorrt-rtx" or (builder == "auto" and find_spec("tensorrt") is None)


def build_apart(request: Path) -> int:
    """Builds in a process forked from this one, or in this one where there is no fork.

    Returns:
        0 done, 1 refused, 3 the vendor's package is not here; of a crash the signal's number, negative.
    """
    if not hasattr(os, "fork"):
        return _build_and_tell(request)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        code = _build_and_tell(request)
    except Exception:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _build_and_tell(request: Path) -> int:
    try:
        result = build(request, lambda line: print(line, flush=True))
    except (BuildFailed, ImportError) as error:
        print(f"FAILED: {request.name}: {error}", flush=True)
        return 3 if isinstance(error, ImportError) else 1
    print(f"BUILT: {request.name}: {result['bytes']} bytes, {result['seconds']:.1f} s", flush=True)
    return 0


def with_settled_memory() -> None:
    """Starts this process again with memory at the same addresses every time and in large pages, where Linux allows it.

    TensorRT-RTX 1.7.1 sorts some things by address, such as a graph's outputs. Containers may forbid the switch; the
    engine is then as good, its bytes may differ.
    """
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if not sys.platform.startswith("linux") or tunables.startswith(ALLOCATOR):
        return
    personality = ctypes.CDLL(None).personality
    personality(personality(ASK) | NO_RANDOM_ADDRESSES)
    os.environ |= {"PYTHONHASHSEED": "0", "GLIBC_TUNABLES": f"{ALLOCATOR}:{tunables}".rstrip(":")}
    os.execv(sys.executable, sys.orig_argv)
