"""Real processes that want the same engine at once, or die while building it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stagekit.errors import CompileError
from stagekit.store import EngineKey, Store
from stagekit.store.lock import held, held_if_free
from stagekit.target import EngineBlob

Keys = Callable[[int], EngineKey]

PROGRAM = """
import json, os, sys, time
from pathlib import Path
from stagekit.store import EngineKey, Store
from stagekit.target import EngineBlob

folder, key = Path(sys.argv[1]), EngineKey.from_dict(json.loads(sys.argv[2]))

def note(name, text):
    with (folder / name).open("a") as file:
        file.write(text + "\\n")

def build(workdir):
    (workdir / "half").write_bytes(b"half")
    note("built", str(os.getpid()))
    while not (folder / "go").exists():
        time.sleep(0.01)
    (workdir / "engine").write_bytes(b"whole" * 1000)
    return EngineBlob(workdir, ("engine",), key.inputs, key.outputs)

stored = Store(folder / "store").get_or_build(key, build, lambda line: note("waited", line))
assert (stored.blob.root / "engine").read_bytes() == b"whole" * 1000
print(stored.cached)
"""


class Processes:
    """Processes that get or build an engine; builders go on when they are told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self, key: EngineKey) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", PROGRAM, str(self.folder), json.dumps(key.to_dict())]
        self.running.append(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return self.running[-1]

    def lines(self, name: str) -> list[str]:
        """What all of them noted: ``built`` or ``waited``."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def until(self, name: str, count: int) -> None:
        deadline = time.monotonic() + 60
        while len(self.lines(name)) < count:
            assert time.monotonic() < deadline, f"{name}: {self.lines(name)}"
            time.sleep(0.01)

    def go(self) -> list[str]:
        """Lets the builders go on; what each process says in the end: whether it found the engine."""
        (self.folder / "go").touch()
        results = [process.communicate(timeout=60) for process in self.running]
        assert all(process.returncode == 0 for process in self.running), results
        return [out.strip() for out, _ in results]

    def kill(self, process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.running.remove(process)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path)
    yield started
    for process in started.running:
        process.kill()
        process.communicate()


def test_of_processes_that_want_one_engine_only_one_builds_it(
    store: Store, key: EngineKey, processes: Processes
) -> None:
    started = [processes.start(key) for _ in range(3)]
    processes.until("built", 1)
    processes.until("waited", 2)
    waited = processes.lines("waited")  # later, one who waited may wait for the other to look the engine up
    found = processes.go()
    (builder,) = processes.lines("built")
    assert dict(zip((str(process.pid) for process in started), found, strict=True))[builder] == "False"
    assert sorted(found) == ["False", "True", "True"]
    assert all(f"waiting for process {builder}, " in line for line in waited), (builder, waited)
    assert not [path for name in ("tmp", "locks") for path in (store.root / name).iterdir()]


def test_different_engines_build_at_the_same_time(keys: Keys, processes: Processes) -> None:
    for number in range(2):
        processes.start(keys(number))
    processes.until("built", 2)  # both are building, and neither is through
    assert processes.go() == ["False", "False"]


def test_a_killed_builder_blocks_nobody(store: Store, key: EngineKey, builder: Any, processes: Processes) -> None:
    victim = processes.start(key)
    processes.until("built", 1)
    processes.start(key)
    processes.until("waited", 1)
    processes.kill(victim)
    processes.until("built", 2)
    assert processes.go() == ["False"]
    assert store.get_or_build(key, builder(key)).cached
    assert list((store.root / "tmp").iterdir()) == []  # the second builder threw away what the first left


def test_after_a_kill_the_engine_is_simply_missing(
    store: Store, key: EngineKey, builder: Any, processes: Processes, warnings: list[str]
) -> None:
    victim = processes.start(key)
    processes.until("built", 1)
    processes.kill(victim)
    assert store.get(key) is None
    assert store.ls() == []
    assert store.verify() == []
    assert not store.get_or_build(key, builder(key)).cached
    assert warnings == []


def test_gc_sweeps_what_a_killed_builder_left_and_nothing_of_a_living_one(
    store: Store, keys: Keys, processes: Processes
) -> None:
    victim = processes.start(keys(0))
    processes.start(keys(1))
    processes.until("built", 2)
    processes.kill(victim)
    (swept,) = store.gc().leftovers
    assert swept.name.startswith(keys(0).digest)
    (left,) = (store.root / "tmp").iterdir()
    assert left.name.startswith(keys(1).digest)
    assert [path.name for path in (store.root / "locks").iterdir()] == [keys(1).digest]
    assert processes.go() == ["False"]


def test_threads_of_one_process_share_a_build_too(store: Store, key: EngineKey, builder: Any) -> None:
    build = builder(key)
    inside, go = threading.Event(), threading.Event()
    said: list[str] = []

    def slow(workdir: Path) -> EngineBlob:
        inside.set()
        assert go.wait(30)
        blob: EngineBlob = build(workdir)
        return blob

    def progress(line: str) -> None:
        said.append(line)
        go.set()

    first = threading.Thread(target=store.get_or_build, args=(key, slow))
    first.start()
    assert inside.wait(30)
    second = store.get_or_build(key, build, progress)
    first.join()
    assert second.cached
    assert build.runs == 1
    assert said == [f"waiting for process {os.getpid()}, which is building the same engine ({key.digest[:12]})"]


def test_when_the_first_builder_fails_the_one_who_waited_builds(store: Store, key: EngineKey, builder: Any) -> None:
    inside, go = threading.Event(), threading.Event()
    failures: list[CompileError] = []

    def failing(workdir: Path) -> EngineBlob:
        inside.set()
        assert go.wait(30)
        raise CompileError("no")

    def first() -> None:
        try:
            store.get_or_build(key, failing)
        except CompileError as error:
            failures.append(error)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    assert not store.get_or_build(key, builder(key), lambda _: go.set()).cached
    thread.join()
    assert len(failures) == 1


def test_a_lock_is_never_held_twice(tmp_path: Path) -> None:
    """Locks are files that come and go, so many threads try many times to find a gap."""
    path, holders, most, turns = tmp_path / "lock", [0], [0], [0]

    def work() -> None:
        for _ in range(100):
            with held(path, lambda _: None):
                holders[0] += 1
                most[0] = max(most[0], holders[0])
                time.sleep(0)
                turns[0] += 1
                holders[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most[0], turns[0]) == (1, 600)
    assert not path.exists()


def test_a_taken_lock_is_not_free(tmp_path: Path) -> None:
    with held(tmp_path / "lock", lambda _: None), held_if_free(tmp_path / "lock") as ours:
        assert not ours
    with held_if_free(tmp_path / "lock") as ours:
        assert ours
