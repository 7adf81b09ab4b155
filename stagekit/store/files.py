"""Files and folders as the store handles them: hashed, forced to disk, named safely, failing clearly."""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from stagekit.errors import StoreError

_FULL: Final = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY: Final = {errno.EROFS, errno.EACCES, errno.EPERM}
ELSEWHERE: Final = "set STAGEKIT_STORE to a folder that can be written"


def file_digest(path: str | PathLike[str]) -> str:
    """SHA-256 of a file's contents, in hex, read in pieces."""
    # Large reads: with the SHA instructions of current CPUs, small ones would spend as long in system calls.
    with Path(path).open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_inside(name: str) -> bool:
    """Whether ``name`` is a plain relative path, in ``a/b`` form, that stays inside its folder on any system."""
    if not name or "\\" in name or "\0" in name:
        return False
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    return str(path) == name and name != "." and ".." not in path.parts and not path.is_absolute() and not windows.drive


def tree_bytes(folder: Path) -> int:
    """Bytes of all files under ``folder``, as far as they can be seen."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(parent) / name).lstat().st_size
            except OSError:
                continue  # somebody removed it meanwhile
    return total


def sync(path: Path) -> None:
    """Returns once a file's contents, or the names in a folder, are on disk."""
    windows = sys.platform == "win32"
    if windows and path.is_dir():
        return  # Windows has no such call and needs none
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Writes a new file and forces it to disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def clear_failures(root: Path, remedy: str = ELSEWHERE) -> Iterator[None]:
    """Turns an :class:`OSError` in its body into a :class:`StoreError` that names the path and a way out."""
    try:
        yield
    except OSError as error:
        raise store_error(error, root, remedy) from error


def store_error(error: OSError, root: Path, remedy: str = ELSEWHERE) -> StoreError:
    """What a failed system call means to somebody who has a store at ``root``."""
    where = error.filename or root
    if is_full(error):
        return StoreError(
            f"no space is left for {root}", where=where, remedy=f"free some with `stagekit store gc`, or {remedy}"
        )
    if is_read_only(error):
        return StoreError(f"{root} cannot be written ({error.strerror})", where=where, remedy=remedy)
    return StoreError(f"{root} cannot be used ({error.strerror or error})", where=where, remedy=remedy)


def is_full(error: OSError) -> bool:
    """Whether a system call failed for want of space."""
    return error.errno in _FULL


def is_read_only(error: OSError) -> bool:
    """Whether a system call failed because writing is not allowed."""
    return error.errno in _READ_ONLY
