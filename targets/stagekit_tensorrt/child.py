""":mod:`stagekit_tensorrt.builder` apart from this process: with a time limit, a live log, and crashes as errors.

A process that has the vendor's library loaded waits for requests and forks for each, so that a crash takes one build
with it and no other, and starting costs a build almost nothing. It ends with this process.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagekit.errors import CompileError, TargetUnavailable
from stagekit.target import Progress
from stagekit_tensorrt.config import BuildConfig
from stagekit_tensorrt.installed import REMEDY

TIME_LIMIT = 3600
"""Seconds; a large network at optimization level 5 takes most of an hour."""

TELL_EVERY = 1.0
"""Seconds between two lines of plain information that are passed on; warnings and errors are passed on at once."""

BUILDER = "stagekit_tensorrt.builder"

NOT_HERE = 3
"""The child's exit code where the vendor's package does not import."""


@dataclass(frozen=True, slots=True)
class Build:
    """What a build left behind: the child's result (see :func:`stagekit_tensorrt.builder.build.build`) and its log."""

    result: dict[str, Any]
    log: list[str] = field(default_factory=list)


def write_request(folder: Path, name: str, config: BuildConfig, timing_cache: Path | None = None) -> Path:
    """The request for ``<name>.onnx`` in ``folder``, which makes ``<name>.plan`` and ``<name>.result.json``."""
    request = {
        "onnx": f"{name}.onnx",
        "plan": f"{name}.plan",
        "result": f"{name}.result.json",
        "config": config.to_dict(),
        "timing_cache": str(timing_cache) if timing_cache else None,
    }
    path = folder / f"{name}.request.json"
    path.write_text(json.dumps(request, indent=1), encoding="utf-8")
    return path


def run(
    request: Path, progress: Progress, limit: float = TIME_LIMIT, script: Path | None = None, gpu: int = 0
) -> Build:
    """Builds in another process.

    Args:
        progress: told of the builder's log as it comes.
        limit: seconds after which the build is ended.
        script: in place of :mod:`stagekit_tensorrt.builder`.
        gpu: that TensorRT is to time kernels on.

    Raises:
        CompileError: the builder refused (with its own words), crashed, or took longer than ``limit``.
        TargetUnavailable: the vendor's package does not import there.
    """
    builder = json.loads(request.read_text(encoding="utf-8"))["config"]["builder"]
    program = (str(script),) if script else ("-m", BUILDER)
    waiting = _waiting[os.getpid(), program, builder, gpu]
    server = waiting.pop() if waiting else None
    if server is None or server.poll() is not None:
        server = _start(program, builder, gpu)
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(server)

    timer = threading.Timer(limit, end)
    timer.start()
    log: list[str] = []
    code = None
    try:
        code = _follow(server, request, log, progress)
    finally:
        timer.cancel()
        if code is None or late.is_set():
            _end(server)
        else:
            waiting.append(server)
    if late.is_set():
        raise CompileError(
            f"the builder was still at it after {limit:.0f} s",
            where=request.name,
            remedy="raise time_limit in the profile, or lower optimization_level",
        )
    if code == 0:
        result = json.loads(request.with_name(request.name.replace(".request.", ".result.")).read_text())
        return Build(result, log)
    raise _failure(server.returncode if code is None else code, log, request)


_waiting: dict[tuple[int, tuple[str, ...], str, int], list[subprocess.Popen[str]]] = defaultdict(list)
"""Processes with nothing to do, by this process, program, builder and GPU."""


def _start(program: tuple[str, ...], builder: str, gpu: int) -> subprocess.Popen[str]:
    # -P: whatever lies in the folder where we happen to be is none of the builder's.
    return subprocess.Popen(
        [sys.executable, "-P", *program, "--serve", builder],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_seeing(gpu),
        start_new_session=True,  # a group, to be ended together
    )


def _follow(server: subprocess.Popen[str], request: Path, log: list[str], progress: Progress) -> int | None:
    """Reads the log of one build as it comes; returns its exit code, or ``None`` where the server itself ended."""
    assert server.stdin is not None
    assert server.stdout is not None
    told = time.monotonic()
    with suppress(BrokenPipeError):
        print(request.absolute(), file=server.stdin, flush=True)
    for line in map(str.rstrip, server.stdout):
        if line.startswith("ENDED: "):
            return int(line.removeprefix("ENDED: "))
        if not line:
            continue
        log.append(line)
        if not line.startswith("INFO") or time.monotonic() - told > TELL_EVERY:
            progress(line)
            told = time.monotonic()
    return None


def _kill(server: subprocess.Popen[str]) -> None:
    """Ends a server and the build that it forked."""
    if sys.platform == "win32":
        server.kill()
    else:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _end(server: subprocess.Popen[str]) -> None:
    _kill(server)
    with suppress(BrokenPipeError), server:  # closes its pipes and waits for it
        pass


@atexit.register
def end_waiting() -> None:
    """Ends the processes that wait for a build; the next build starts one anew."""
    for (owner, *_), servers in _waiting.items():
        while owner == os.getpid() and servers:
            _end(servers.pop())


def _seeing(gpu: int) -> dict[str, str]:
    """The environment of a process that sees this GPU as its first."""
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if gpu == 0:
        return dict(os.environ)
    return {**os.environ, "CUDA_VISIBLE_DEVICES": visible[gpu] if gpu < len(visible) else str(gpu)}


def _failure(code: int, log: list[str], request: Path) -> CompileError | TargetUnavailable:
    failed = next((line for line in reversed(log) if line.startswith("FAILED: ")), None)
    if failed is not None:
        reason = failed.removeprefix(f"FAILED: {request.name}: ")
        if code == NOT_HERE:
            return TargetUnavailable(reason, where="tensorrt", remedy=REMEDY)
        return CompileError(f"TensorRT cannot build it: {reason}", where=request.name)
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    last = "; ".join(log[-3:]) or "it wrote nothing"
    return CompileError(f"the builder crashed ({how}); its last words: {last}", where=request.name)
