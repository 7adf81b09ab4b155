"""From a builder's folder to an entry of the store, or from an entry to a deployment: whole or not at all."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from stagekit.errors import CompileError
from stagekit.store.check import load_entry, measure
from stagekit.store.files import clear_failures, is_full, is_inside, is_read_only, store_error, sync, write_synced
from stagekit.store.key import EngineKey
from stagekit.store.layout import Layout
from stagekit.store.record import SIDECAR, USED, Damage, Record, read_record
from stagekit.target import EngineBlob

Build = Callable[[Path], EngineBlob]
"""Builds an engine into the empty folder it is given and touches nothing else."""


def build_and_publish(layout: Layout, key: EngineKey, build: Build, clock: Callable[[], float]) -> Record:
    """Builds the engine that ``key`` names and puts it into the store; for the holder of the key's lock.

    What the builder leaves in its folder beside the engine's files is thrown away.

    Raises:
        CompileError: what the builder gave back cannot be stored.
        StoreError: the store cannot be written, or the builder ran out of space there.
    """
    digest = key.digest
    with clear_failures(layout.root):
        for _, abandoned in layout.temporaries(digest):
            shutil.rmtree(abandoned)  # the lock is ours, so whoever began it is dead
        temporary = layout.new_temporary(digest)
    try:
        workdir, entry = temporary / "work", temporary / "entry"
        with clear_failures(layout.root):
            workdir.mkdir()
            entry.mkdir()
        begun = time.perf_counter()
        blob = _build(build, workdir, layout.root)
        seconds = time.perf_counter() - begun
        with clear_failures(layout.root):
            _move(blob, workdir, entry, key.target)
            record = Record(
                key=key,
                files=measure(entry, blob.files),
                inputs=tuple(blob.inputs),
                outputs=tuple(blob.outputs),
                metadata=blob.metadata,
                report=blob.report,
                created=datetime.fromtimestamp(clock(), UTC),
                build_seconds=seconds,
            )
            record = _seal(record, entry)
            final = layout.entry(digest)
            final.parent.mkdir(parents=True, exist_ok=True)
            entry.rename(final)
            sync(final.parent)
        return record
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def export(record: Record, source: Path, destination: Path) -> EngineBlob:
    """Copies an entry's files and sidecar into a new folder and checks the copy before giving it its name.

    Copies, not links: a deployment that is changed in place must not change the store with it.

    Raises:
        EngineError: the copy, and so the entry, is damaged.
        OSError: a file cannot be read or written, or ``destination`` holds something.
    """
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        for name in (*(file.name for file in record.files), SIDECAR):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, partial / name)
        load_entry(partial, record.key.digest)
        with suppress(FileNotFoundError):
            destination.rmdir()  # an empty folder may be replaced, anything else may not
        partial.rename(destination)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return record.blob(destination)


def _build(build: Build, workdir: Path, root: Path) -> EngineBlob:
    try:
        return build(workdir)
    except OSError as error:
        # The builder writes into the store; any other failure of its system calls is its own affair.
        if is_full(error) or (is_read_only(error) and Path(str(error.filename)).is_relative_to(root)):
            raise store_error(error, root) from error
        raise


def _move(blob: EngineBlob, workdir: Path, entry: Path, target: str) -> None:
    """Takes the engine's files, and them alone, from the builder's folder."""
    inside = workdir.resolve()
    if len({name.casefold() for name in blob.files}) != len(blob.files):
        raise CompileError(f"the target names a file twice: {', '.join(blob.files)}", where=target)
    for name in blob.files:
        source = blob.root / name
        if not is_inside(name) or name.casefold() in (SIDECAR, USED):
            raise CompileError(f"the target gave a file the name {name!r}, which the store cannot take", where=target)
        if source.is_symlink() or not source.is_file() or not source.resolve().is_relative_to(inside):
            raise CompileError(f"the target names {source}, which is no file in its folder {workdir}", where=target)
        (entry / name).parent.mkdir(parents=True, exist_ok=True)
        source.rename(entry / name)


def _seal(record: Record, entry: Path) -> Record:
    """Writes the sidecar once all that it describes is on disk, and returns it as the next process will read it."""
    try:
        sidecar = record.to_bytes()
    except (TypeError, ValueError) as error:
        raise CompileError(f"the target's metadata or report is not JSON: {error}", where=record.key.target) from error
    folders = {entry}
    for file in record.files:
        sync(entry / file.name)
        folders.update(parent for parent in (entry / file.name).parents if parent.is_relative_to(entry))
    (entry / USED).touch()
    write_synced(entry / SIDECAR, sidecar)
    for folder in folders:
        sync(folder)
    read = read_record(entry)
    if isinstance(read, Damage):
        raise CompileError(f"what the target gave back cannot be read again: {read}", where=record.key.target)
    return read
