"""The session over tiny real engines: results, sharing, futures, streams, tasks that come and go."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stagekit.build.compile import compile
from stagekit.cli.run import progress_text
from stagekit.errors import Cancelled, DeadlineMissed, Overloaded, UsageError
from stagekit.runtime.statistics import CallStatistics
from stagekit.runtime.trace import Trace
from stagekit.session import Session
from stagekit.store import Store

TIMEOUT = 20.0
TASKS = ("land", "sea", "line")


@pytest.fixture(scope="module")
def compiled(zoo: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deployed")
    bundles = [zoo.stages, *(zoo.tasks[t] for t in TASKS)]
    compile(bundles, profile="ort-f32", output=folder / "tiny.deploy", store=Store(folder / "store"))
    return folder / "tiny.deploy"


@pytest.fixture
def session(compiled: Path) -> Iterator[Session]:
    with Session(compiled) as opened:
        yield opened


def picture(seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_several_tasks_at_once_give_what_each_gives_alone(compiled: Path, session: Session) -> None:
    together = session.run(picture(0))
    for task in TASKS:
        with Session(compiled, [task]) as alone:
            assert same(alone.run(picture(0)), {task: together[task]})


def test_an_image_with_its_own_name_is_computed_once(session: Session) -> None:
    frame = session.frame(picture(0))
    first = session.run(frame, ["land"])
    before = session.statistics.calls.total()
    assert same(session.run(frame, ["land"]), first)
    assert session.statistics.calls.total() == before
    session.run(frame, ["line"])
    assert session.statistics.calls["stem"] == 1
    session.run(picture(0), ["line"])
    assert session.statistics.calls["stem"] == 2, "an image without a name is never taken for another"


def test_a_frame_owns_its_pixels(session: Session) -> None:
    image = picture(0)
    expected = session.run(image)
    frame = session.frame(image)
    image[:] = 0
    assert same(session.run(frame), expected)


def test_an_image_may_be_changed_once_it_is_submitted(session: Session) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)  # the frame's own size
    expected = session.run(image.copy())
    futures = []
    for _ in range(10):
        changing = image.copy()
        futures.append(session.submit(changing))
        changing[:] = 0
    assert all(same(f.result(TIMEOUT), expected) for f in futures)


def test_threads_do_not_mix_their_results(session: Session) -> None:
    expected = [session.run(picture(seed)) for seed in range(6)]
    wrong: list[int] = []

    def ask(seed: int) -> None:
        for _ in range(5):
            futures = [session.submit(picture(seed)), session.submit(picture(seed), list(TASKS))]
            results = [*(f.result(TIMEOUT) for f in futures), session.run(picture(seed))]
            wrong.extend(seed for r in results if not same(r, expected[seed]))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT)
    assert wrong == []


def test_a_stream_keeps_the_order(session: Session) -> None:
    expected = [session.run(picture(seed), ["sea"]) for seed in range(9)]
    streamed = list(session.stream((picture(seed) for seed in range(9)), ["sea"], window=3))
    assert all(same(a, b) for a, b in zip(streamed, expected, strict=True))


def test_a_stream_that_is_left_withdraws_what_is_under_way(session: Session) -> None:
    stream = session.stream((picture(seed) for seed in range(100)), window=8)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert session.statistics.calls["stem"] <= 9


def test_asyncio_gets_the_same_results(session: Session) -> None:
    expected = [session.run(picture(seed)) for seed in range(4)]

    async def images() -> AsyncIterator[Any]:
        for seed in range(4):
            yield picture(seed)

    async def ask() -> tuple[list[Any], list[Any]]:
        gathered = await asyncio.gather(*(session.run_async(picture(seed)) for seed in range(4)))
        return list(gathered), [r async for r in session.stream_async(images(), window=2)]

    for results in asyncio.run(ask()):
        assert all(same(a, b) for a, b in zip(results, expected, strict=True))


def test_a_deadline_that_has_passed_is_an_error_and_not_a_result(session: Session) -> None:
    with pytest.raises(DeadlineMissed, match=r"missed its deadline"):
        session.run(picture(0), deadline=0.0)
    assert session.statistics.requests["late"] == 1


def test_a_future_can_be_cancelled(session: Session) -> None:
    futures = [session.submit(picture(seed)) for seed in range(20)]
    assert futures[-1].cancel()
    assert futures[-1].cancelled()
    assert all(f.result(TIMEOUT) for f in futures[:-1])
    assert not futures[0].cancel()


def test_with_a_promise_more_than_can_be_kept_is_refused(compiled: Path) -> None:
    with Session(compiled, slo=1e-6) as session:
        for seed in range(40):
            session.run(picture(seed))
        futures = []
        with pytest.raises(Overloaded) as refusal:
            for seed in range(1000):
                futures.append(session.submit(picture(seed)))
        assert refusal.value.retry_after > 0
        assert all(f.result(TIMEOUT) for f in futures)


def test_a_stream_waits_for_room(compiled: Path) -> None:
    with Session(compiled, slo=1e-6) as session:
        for seed in range(40):
            session.run(picture(seed))
        assert len(list(session.stream((picture(s) for s in range(30)), window=16))) == 30


def test_tasks_come_and_go_while_others_run(compiled: Path) -> None:
    with Session(compiled, ["sea"]) as session:
        expected = session.run(picture(0), ["sea"])
        engines = len(session._driver.engines)
        stop = threading.Event()
        wrong: list[Any] = []

        def keep_asking() -> None:
            while not stop.is_set():
                try:
                    results = session.run(picture(0), ["sea"])
                except Exception as error:
                    wrong.append(error)
                else:
                    wrong.extend([results] if not same(results, expected) else [])

        asking = threading.Thread(target=keep_asking)
        asking.start()
        for _ in range(5):
            session.add_task("land")
            futures = [session.submit(picture(seed), ["land", "sea"]) for seed in range(4)]
            session.remove_task("land")
            assert all(set(f.result(TIMEOUT)) == {"land", "sea"} for f in futures)
        stop.set()
        asking.join(TIMEOUT)
        assert wrong == []
        session.run(picture(0))  # engines close after the answer to the last who used them
        assert len(session._driver.engines) == engines
        with pytest.raises(UsageError, match="no task 'land' is open"):
            session.run(picture(0), ["land"])


def test_a_task_compiled_into_the_deployment_meanwhile_can_be_added(zoo: Any, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    compile([zoo.stages, zoo.tasks["sea"]], profile="ort-f32", output=tmp_path / "d.deploy", store=store)
    with Session(tmp_path / "d.deploy") as session:
        compile([zoo.tasks["line"]], into=tmp_path / "d.deploy", store=store)
        session.add_task("line")
        assert set(session.run(picture(0))) == {"sea", "line"}
        assert session.states == {"sea": "open", "line": "open"}


def test_closing_answers_what_is_under_way(compiled: Path) -> None:
    session = Session(compiled)
    futures = [session.submit(picture(seed)) for seed in range(30)]
    session.close()
    assert all(f.done() for f in futures)
    with pytest.raises(Cancelled):
        session.run(picture(0))


def test_what_is_no_image_is_refused(session: Session) -> None:
    with pytest.raises(UsageError, match="expected a uint8 image"):
        session.run(np.zeros((8, 8), np.uint8))
    with pytest.raises(UsageError, match="did you mean 'land'"):
        session.run(picture(0), ["lend"])


def test_a_trace_has_a_slice_for_every_call(compiled: Path, tmp_path: Path) -> None:
    trace = Trace()
    with Session(compiled, trace=trace) as session:
        session.run(picture(0))
        session.run(picture(1))
        calls = session.statistics.calls.total()
    trace.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    slices = [e for e in events if e["ph"] == "X"]
    assert len(slices) == calls
    assert {e["args"]["name"] for e in events if e["name"] == "thread_name"} == {"onnxruntime CPU #0"}
    assert all(e["dur"] >= 0 and e["args"]["key"] and e["args"]["batch"] == 1 for e in slices)
    assert len({tuple(e["args"]["key"]) for e in slices}) == calls, "equal keys would be one call"
    summary = trace.summary()
    assert summary[-1].what == "idle"
    assert sum(row.share for row in summary) == pytest.approx(1.0, abs=0.01)


def test_the_progress_line_names_rate_queue_and_what_was_shared() -> None:
    statistics = CallStatistics(calls=Counter(stem=5, head=10), shared=Counter(stem=15), waiting=3)
    assert progress_text(4, 10, 2.0, statistics) == "4/10 images  2.0 frames/s  queue 3  shared: stem 75 %"


def test_run_writes_a_trace_and_says_where_time_went(
    compiled: Path, photo: Path, tmp_path: Path, stagekit: Any
) -> None:
    shutil.copytree(compiled, tmp_path / "d.deploy")
    result = stagekit("run", tmp_path / "d.deploy", photo, "-o", tmp_path / "out", "--trace", tmp_path / "t.json")
    assert result.code == 0
    assert "where the time went" in result.out and "idle" in result.out
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
