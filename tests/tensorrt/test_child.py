"""The builder's process: what it says, how it fails, and that it cannot take us with it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from stagekit_tensorrt import child
from stagekit_tensorrt.config import BuildConfig

from stagekit.errors import CompileError, TargetUnavailable

CONFIG = BuildConfig("tensorrt-rtx", (86,), {})


def run(folder: Path, program: str, limit: float = 60) -> tuple[child.Build, list[str]]:
    script = folder / "builder.py"
    script.write_text("import json, os, signal, sys, time\n" + program)
    told: list[str] = []
    request = child.write_request(folder, "engine", CONFIG)
    return child.run(request, told.append, limit, script), told


def test_its_result_and_log_come_back_and_warnings_are_told_at_once(tmp_path: Path) -> None:
    built, told = run(
        tmp_path,
        "print('INFO: quiet'); print('WARNING: mind')\n"
        "open(sys.argv[1].replace('.request.', '.result.'), 'w').write(json.dumps({'bytes': 3}))",
    )
    assert built.result == {"bytes": 3}
    assert built.log == ["INFO: quiet", "WARNING: mind"]
    assert told == ["WARNING: mind"]


def test_a_crash_is_an_error_that_names_the_signal_and_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"crashed \(signal 11\); its last words: INFO: fusing") as caught:
        run(tmp_path, "print('INFO: fusing', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    assert caught.value.exit_code == 1


def test_a_build_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(CompileError, match="still at it after 1 s") as caught:
        run(tmp_path, "print('INFO: timing kernels', flush=True); time.sleep(60)", limit=1)
    assert time.monotonic() - begun < 20
    assert "time_limit" in str(caught.value)


def test_the_vendors_refusal_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"cannot build it: conv_3 \(Conv\): no such thing"):
        run(tmp_path, "print('FAILED: engine.request.json: conv_3 (Conv): no such thing'); sys.exit(1)")


def test_a_vendor_that_does_not_import_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="libnvinfer"):
        run(tmp_path, "print('FAILED: engine.request.json: no libnvinfer.so.10'); sys.exit(3)")


def test_the_real_script_says_so_where_nothing_is_installed(tmp_path: Path) -> None:
    """Module names that cannot exist: the script is run as it is."""
    request = child.write_request(tmp_path, "engine", BuildConfig("tensorrt-none", (), {}))
    with pytest.raises(TargetUnavailable, match="tensorrt_none"):
        child.run(request, lambda _: None)
