"""A lock per key between processes, which the kernel releases when its holder dies."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from stagekit.store.files import ELSEWHERE, clear_failures

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

Waiting = Callable[[str], None]
"""Called with the id of the process that has the lock, before waiting for it."""


@contextmanager
def held(path: Path, waiting: Waiting, root: Path | None = None, remedy: str = ELSEWHERE) -> Iterator[None]:
    """Holds the lock at ``path``, waiting for as long as another process or thread has it.

    Args:
        root: what it is a lock of, for messages; its folder by default. Likewise ``remedy``.

    Raises:
        StoreError: the lock cannot be taken. What its body raises comes through as it is.
    """
    with clear_failures(root or path.parent, remedy):
        descriptor = _acquire(path, waiting)
    assert descriptor is not None  # only one who does not wait leaves empty-handed
    try:
        yield
    finally:
        _release(descriptor, path)


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Holds the lock at ``path`` and gives ``True``; gives ``False`` where another has it."""
    descriptor = _acquire(path, None)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _release(descriptor, path)


def _acquire(path: Path, waiting: Waiting | None) -> int | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _try(descriptor):
                if waiting is None:
                    os.close(descriptor)
                    return None
                waiting(_holder(descriptor))
                _wait(descriptor)
            if _is_at(descriptor, path):
                with suppress(OSError):  # only for the message that another process shows
                    os.ftruncate(descriptor, 0)
                    os.lseek(descriptor, 0, os.SEEK_SET)
                    os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # The holder that was waited for has removed the file: what was locked is no longer the key's lock.
        os.close(descriptor)


def _release(descriptor: int, path: Path) -> None:
    # Removed while still held, so that nobody can lock the file between the two; Windows refuses and keeps it.
    with suppress(OSError):
        path.unlink()
    _unlock(descriptor)
    os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """The id of the process that has the lock; it writes it just after it got it, so that is waited for a moment."""
    for _ in range(50):
        with suppress(OSError):
            os.lseek(descriptor, 0, os.SEEK_SET)
            if holder := os.read(descriptor, 32).decode("ascii", "replace").strip():
                return holder
        time.sleep(0.01)
    return "unknown"


if sys.platform == "win32":
    _BYTE = 1 << 20  # Windows locks forbid reading: lock a byte far behind the holder's id

    def _try(descriptor: int) -> bool:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
        return True

    def _wait(descriptor: int) -> None:
        while not _try(descriptor):
            time.sleep(0.1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)

else:

    def _try(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _wait(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX)

    def _unlock(descriptor: int) -> None:
        # Before closing: a child that the builder forked has the descriptor too and would keep the lock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
