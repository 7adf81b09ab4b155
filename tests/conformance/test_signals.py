"""Engines leave the process's signals in order: Ctrl-C must find a stack that is still there.

A vendor may give a thread a stack of its own for signal handlers (``sigaltstack``) and free it with the engine.
Python's handlers run on it, so that the next signal would write to memory that is gone, or someone else's by then.
"""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
from collections.abc import Callable
from threading import Thread
from types import FrameType

import pytest

from stagekit.graph import Graph
from stagekit.target import Engine, EngineBlob

from .conftest import Bench

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's signal stack")


class Stack(ctypes.Structure):
    """``stack_t`` of signal.h."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def signal_stack() -> tuple[int | None, int]:
    """Address and bytes of the stack on which this thread handles signals; None and 0 for its ordinary one."""
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    return stack.start, stack.size


def close_one_after_the_other(engines: list[Engine]) -> None:
    """The first opened is the first closed."""
    while engines:
        engines.pop(0).close()
        gc.collect()


def close_on_another_thread(engines: list[Engine]) -> None:
    thread = Thread(target=close_one_after_the_other, args=(engines,))
    thread.start()
    thread.join()


@pytest.mark.parametrize("close", [close_one_after_the_other, close_on_another_thread])
def test_signals_are_handled_after_engines_are_closed(
    bench: Bench, compiled: Callable[[str], tuple[Graph, EngineBlob]], close: Callable[[list[Engine]], None]
) -> None:
    _, blob = compiled("conv")
    before = signal_stack()
    close([bench.target.load(blob, bench.profile) for _ in range(2)])
    assert signal_stack() == before

    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    restored = signal.signal(signal.SIGUSR1, note)
    signal.raise_signal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, restored)
    assert seen == [signal.SIGUSR1]
