"""The builder's processes: what they say, how they fail, and that they cannot take us, or each other, with them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stagekit_tensorrt import child
from stagekit_tensorrt.config import BuildConfig

from stagekit.errors import CompileError, TargetUnavailable
from stagekit.target import silent

CONFIG = BuildConfig("tensorrt-rtx", (86,), {})


PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from stagekit_tensorrt.builder import processes
from stagekit_tensorrt.builder.vendors import BuildFailed

def build(request, emit):
    if not request.stem.startswith("engine"):
        {other}
    {program}
    return {{"bytes": 3, "seconds": 0.0}}

processes.build = build
sys.exit(processes.main(sys.argv[1:]))
"""


def write(folder: Path, program: str, other: str = "pass") -> Path:
    """The real script with another way of building; ``other`` is for requests that are not called ``engine``."""
    script = folder / "builder.py"
    script.write_text(PROGRAM.format(program=program, other=other))
    return script


def run(folder: Path, program: str, limit: float = 60) -> tuple[child.Build, list[str]]:
    told: list[str] = []
    request = child.write_request(folder, "engine", CONFIG)
    return child.run(request, told.append, limit, write(folder, program)), told


def test_its_result_and_log_come_back_and_warnings_are_told_at_once(tmp_path: Path) -> None:
    built, told = run(
        tmp_path,
        "[emit('INFO: quiet') for _ in range(30)]; emit('WARNING: mind')\n"
        "    request.with_name('engine.result.json').write_text('[1, 2]')",
    )
    assert built.result == [1, 2]
    assert built.log == ["INFO: quiet"] * 30 + ["WARNING: mind", "BUILT: engine.request.json: 3 bytes, 0.0 s"]
    assert "WARNING: mind" in told
    assert told.count("INFO: quiet") < 5, "one a second is enough"


def test_a_crash_is_an_error_that_names_the_signal_and_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"crashed \(signal 11\); its last words: INFO: fusing") as caught:
        run(tmp_path, "print('INFO: fusing', end='', flush=True); os.kill(os.getpid(), signal.SIGSEGV)")
    assert caught.value.exit_code == 1


def test_a_build_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(CompileError, match="still at it after 1 s") as caught:
        run(tmp_path, "print('INFO: timing kernels', flush=True); time.sleep(60)", limit=1)
    assert time.monotonic() - begun < 20
    assert "time_limit" in str(caught.value)


def runs(process: str) -> bool:
    """Whether Linux knows it, and not as one that has ended and that nobody asked about."""
    try:
        return Path("/proc", process, "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_build_that_takes_too_long_takes_its_own_process_with_it(tmp_path: Path) -> None:
    """The process that builds is not the one that was started: it must not go on behind our back."""
    script = write(
        tmp_path,
        "request.with_name('engine.result.json').write_text('1')",
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(os.getpid())); time.sleep(60)",
    )
    child.run(child.write_request(tmp_path, "engine", CONFIG), silent, script=script)  # starts
    with pytest.raises(CompileError, match="still at it"):
        child.run(child.write_request(tmp_path, "slow", CONFIG), silent, 1, script)
    deadline = time.monotonic() + 10
    while runs((tmp_path / "pid").read_text()):
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.02)


def test_one_process_serves_all_builds_and_survives_the_crash_of_one(tmp_path: Path) -> None:
    script = write(
        tmp_path,
        "request.with_name(request.name.replace('.request.', '.result.')).write_text(str(os.getppid()))",
        "os.abort()",
    )
    requests = [child.write_request(tmp_path, name, CONFIG) for name in ("engine1", "bad", "engine2")]
    first = child.run(requests[0], silent, script=script)
    with pytest.raises(CompileError, match=r"bad.request.json: .*crashed \(signal 6\)"):
        child.run(requests[1], silent, script=script)
    assert child.run(requests[2], silent, script=script).result == first.result, "forked from the same process"


def test_an_unforeseen_error_of_the_script_comes_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"exit code 1.*KeyError: 'shapes'"):
        run(tmp_path, "raise KeyError('shapes')")


def test_a_script_that_does_not_start_is_an_error(tmp_path: Path) -> None:
    script = tmp_path / "broken.py"
    script.write_text("import sys; sys.exit('no disk')")
    with pytest.raises(CompileError, match=r"crashed .*no disk"):
        child.run(child.write_request(tmp_path, "engine", CONFIG), silent, script=script)


def test_a_kit_builds_on_when_one_graph_crashes_and_says_which(tmp_path: Path) -> None:
    script = write(tmp_path, "request.with_name(f'{request.stem}.plan').write_text('plan')", "os.abort()")
    for name in ("engine1", "bad", "engine2"):
        child.write_request(tmp_path, name, CONFIG)
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FAILED: bad.request.json: the builder crashed (signal 6)" in done.stdout
    assert sorted(path.name for path in tmp_path.glob("*.plan")) == ["engine1.request.plan", "engine2.request.plan"]


def test_the_vendors_refusal_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"cannot build it: conv_3 \(Conv\): no such thing"):
        run(tmp_path, "raise BuildFailed('conv_3 (Conv): no such thing')")


def test_a_vendor_that_does_not_import_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="libnvinfer"):
        run(tmp_path, "raise ImportError('no libnvinfer.so.10')")


def test_the_real_script_says_so_where_nothing_is_installed(tmp_path: Path) -> None:
    """Module names that cannot exist: the script is run as it is."""
    request = child.write_request(tmp_path, "engine", BuildConfig("tensorrt-none", (), {}))
    with pytest.raises(TargetUnavailable, match="tensorrt_none"):
        child.run(request, lambda _: None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere memory stays as it is")
def test_a_builder_starts_again_once_with_memory_where_it_always_is() -> None:
    program = (
        "import ctypes, os\n"
        "from stagekit_tensorrt.builder.processes import with_settled_memory\n"
        "with_settled_memory()\n"
        "libc = ctypes.CDLL(None)\n"
        "fixed = libc.personality(0xFFFFFFFF) & 0x0040000\n"
        "print(ctypes.cast(libc.malloc, ctypes.c_void_p).value if fixed else 0, os.environ['GLIBC_TUNABLES'])"
    )
    command = [sys.executable, "-c", program]
    variables = {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.perturb=0"}
    said = {subprocess.run(command, env=variables, capture_output=True, check=True).stdout for _ in range(3)}
    assert len(said) == 1
    assert said.pop().strip().endswith(b"glibc.malloc.hugetlb=1:glibc.malloc.tcache_count=0:glibc.malloc.perturb=0")
