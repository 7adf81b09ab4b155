"""Running ``build_engine.py`` in a process of its own: with a time limit, a live log, and crashes as errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagekit.errors import CompileError, TargetUnavailable
from stagekit.target import Progress
from stagekit_tensorrt import build_engine
from stagekit_tensorrt.config import BuildConfig
from stagekit_tensorrt.installed import REMEDY

TIME_LIMIT = 3600
"""Seconds; a large network at optimization level 5 takes most of an hour."""

TELL_EVERY = 1.0
"""Seconds between two lines of plain information that are passed on; warnings and errors are passed on at once."""

NOT_HERE = 3
"""The child's exit code where the vendor's package does not import."""


@dataclass(frozen=True, slots=True)
class Build:
    """What a build left behind: the child's result (see :func:`build_engine.build`) and its log."""

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
    """Builds in a child process.

    Args:
        progress: told of the builder's log as it comes.
        limit: seconds after which the child is ended.
        script: in place of ``build_engine.py``.
        gpu: that TensorRT is to time kernels on.

    Raises:
        CompileError: the builder refused (with its own words), crashed, or took longer than ``limit``.
        TargetUnavailable: the vendor's package does not import there.
    """
    # -P: without it the script's folder, which is this package, comes first on the path.
    command = [sys.executable, "-P", str(script or build_engine.__file__), str(request)]
    child = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=_seeing(gpu),
    )
    late = threading.Event()

    def end() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(limit, end)
    timer.start()
    log: list[str] = []
    told = time.monotonic()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            log.append(line.rstrip())
            if not log[-1].startswith("INFO") or time.monotonic() - told > TELL_EVERY:
                progress(log[-1])
                told = time.monotonic()
        code = child.wait()
    finally:
        timer.cancel()
        child.kill()
        child.wait()
    if late.is_set():
        raise CompileError(
            f"the builder was still at it after {limit:.0f} s",
            where=request.name,
            remedy="raise time_limit in the profile, or lower optimization_level",
        )
    if code == 0:
        result = json.loads(request.with_name(request.name.replace(".request.", ".result.")).read_text())
        return Build(result, log)
    raise _failure(code, log, request)


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
