"""Ctrl-C while LoadGen runs: LoadGen cannot be stopped, and must not take the process down with it."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from stagekit.bench.mix import Sample
from stagekit.bench.names import SCENARIOS
from stagekit.bench.system import Answers, SessionSystem

pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed: pip install 'stagekit[bench]'")

PROGRAM = """
import signal, sys
from pathlib import Path
from stagekit.bench import loadgen
from stagekit.bench.system import NullSystem

class Telling(NullSystem):
    def answer(self, number, index):
        print("asked", flush=True)
        return super().answer(number, index)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
try:
    loadgen.run(Telling(8, 0.01), loadgen.Settings(sys.argv[1], 600.0), Path(sys.argv[2]))
except KeyboardInterrupt:
    print("kept")
"""


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_interrupt_ends_the_process_in_order(scenario: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, scenario, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out.splitlines()[-1], err) == (130, "kept", "")


@pytest.mark.parametrize("parts", [1, 2])
def test_a_request_that_is_cancelled_is_answered_by_its_error(parts: int) -> None:
    futures: list[Future[Any]] = [Future() for _ in range(parts)]
    left = iter(futures)

    class Closing:
        def submit(self, *_: object) -> Future[Any]:
            return next(left)

    session: Any = Closing()
    system = SessionSystem(session, [None] * parts, [Sample(tuple((i, ("sea",)) for i in range(parts)))])  # type: ignore[list-item]  # never looked at
    told: list[Answers | Exception] = []
    system.submit(0, 0, told.append)
    for future in futures:
        future.cancel()
    assert [type(answer).__name__ for answer in told] == ["CancelledError"]
