"""An engine's files against its record, by content."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from stagekit.errors import EngineError
from stagekit.store.files import file_digest
from stagekit.store.record import SIDECAR, Damage, FileRecord, Record, read_record
from stagekit.target import EngineBlob

A = TypeVar("A")
B = TypeVar("B")

_THREADS: Final = 2


def check(folder: Path, digest: str) -> tuple[Record | None, tuple[Damage, ...]]:
    """The record of the engine in ``folder`` and all that is wrong there; never both are empty.

    Raises:
        OSError: a file is there but the system does not let it be read (a broken disk counts as damage).
    """
    record = read_record(folder)
    if isinstance(record, Damage):
        return None, (record,)
    if record.key.digest != digest:
        return None, (Damage(folder / SIDECAR, f"the key {digest}", f"the key {record.key.digest}"),)
    found = in_parallel(lambda file: _damage(folder, file), record.files)
    return record, tuple(damage for damage in found if damage)


def load_entry(folder: Path, digest: str) -> EngineBlob:
    """The engine in ``folder`` (of a store, or exported from one), its every byte checked.

    Raises:
        EngineError: it is damaged or is not the engine called ``digest``; lists what is wrong.
    """
    try:
        record, damages = check(folder, digest)
    except OSError as error:
        raise EngineError(f"the engine cannot be read ({error.strerror})", where=error.filename or folder) from error
    if record is None or damages:
        raise EngineError(
            "the engine is damaged: " + "; ".join(str(damage) for damage in damages),
            where=folder,
            remedy="`stagekit compile` builds it again",
        )
    return record.blob(folder)


def measure(folder: Path, names: Sequence[str]) -> tuple[FileRecord, ...]:
    """Records of files as they are now, in the order of ``names``."""
    return tuple(
        in_parallel(lambda name: FileRecord(name, (folder / name).stat().st_size, file_digest(folder / name)), names)
    )


def in_parallel(function: Callable[[A], B], items: Sequence[A]) -> list[B]:
    """``function`` of each, in order, on two threads: hashing leaves Python's lock to others."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(_THREADS, "stagekit-hash") as pool:
        return list(pool.map(function, items))


def _damage(folder: Path, file: FileRecord) -> Damage | None:
    path = folder / file.name
    try:
        status = path.lstat()
        # What a link leads to may have the right contents now and others later.
        if not stat.S_ISREG(status.st_mode) or not path.resolve().is_relative_to(folder.resolve()):
            return Damage(path, "a file inside the entry", f"{stat.filemode(status.st_mode)} at {path.resolve()}")
        if status.st_size != file.size:
            return Damage(path, f"{file.size} bytes", f"{status.st_size} bytes")
        found = file_digest(path)
    except (FileNotFoundError, NotADirectoryError):
        return Damage(path, f"{file.size} bytes", "nothing")
    except OSError as error:
        # Only what the disk itself reports; refused permission or too many open files say nothing about contents.
        if error.errno != errno.EIO:
            raise
        return Damage(path, f"sha256 {file.sha256}", f"unreadable: {error.strerror}")
    return None if found == file.sha256 else Damage(path, f"sha256 {file.sha256}", f"sha256 {found}")
