"""The engine store: look up, build once, list, verify, throw away, hand out."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from stagekit.errors import StoreError
from stagekit.store.check import check
from stagekit.store.collect import Collected, collect, register
from stagekit.store.files import clear_failures
from stagekit.store.key import EngineKey, is_digest
from stagekit.store.layout import Entry, Layout
from stagekit.store.lock import held, held_if_free
from stagekit.store.publish import Build, build_and_publish, export
from stagekit.store.record import USED, Damage, Record, read_record
from stagekit.target import EngineBlob, Progress, silent

_log = logging.getLogger("stagekit.store")


@dataclass(frozen=True, slots=True)
class Stored:
    """An engine that is in the store.

    Args:
        blob: its files, in the store.
        cached: whether it was there before, built by this process or another.
        seconds: that this look-up or build took, waiting included.
        bytes: size of its files.
    """

    blob: EngineBlob
    cached: bool
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Store:
    """Engines under a folder, each named by its key's digest, complete or absent.

    Any number of processes may use one store. Reading needs no lock and no write access.

    Args:
        root: created when the first engine is stored.
        warn: told about damage and about what follows from it.
        clock: seconds since the epoch, for creation and last use.
    """

    root: Path
    warn: Callable[[str], None] = _log.warning
    clock: Callable[[], float] = time.time

    @property
    def _layout(self) -> Layout:
        return Layout(self.root)

    @classmethod
    def default(cls) -> Store:
        """The store that ``STAGEKIT_STORE`` names, else ``stagekit/engines`` in the user's cache folder.

        Raises:
            StoreError: neither can be found out.
        """
        named, cache = os.environ.get("STAGEKIT_STORE"), os.environ.get("XDG_CACHE_HOME", "")
        try:
            if named:
                return cls(Path(named).expanduser().absolute())
            # The XDG specification has relative paths ignored.
            base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
        except RuntimeError as error:
            raise StoreError(f"no home folder is known ({error})", remedy="set STAGEKIT_STORE to a folder") from error
        return cls(base / "stagekit" / "engines")

    def get(self, key: EngineKey) -> EngineBlob | None:
        """The engine that ``key`` names, its every byte checked; ``None`` where it is missing or damaged.

        A damaged one is moved aside, if the store can be written, so that it is built anew.

        Raises:
            StoreError: the engine is there but may not be read.
        """
        digest = key.digest
        record, damages = self._look(digest)
        if damages:
            record = self._take_if_free(digest, damages)
        return self._use(digest, record) if record else None

    def get_or_build(self, key: EngineKey, build: Build, progress: Progress = silent) -> Stored:
        """The engine that ``key`` names, built now unless it is there or another process is building it.

        Args:
            build: fills the empty folder it is given, which lies in the store, and describes what it wrote; it
                runs in one process at a time for a key, at the same time for different keys.
            progress: told whom this call waits for.

        Raises:
            StoreError: the store cannot be read or written, or is full; it is left as it was.
            CompileError: what ``build`` gave back cannot be stored. Whatever ``build`` raises comes through.
        """
        begun = time.perf_counter()
        digest = key.digest
        record, damages = self._look(digest)
        cached = record is not None and not damages
        if not cached:
            with held(self._layout.lock(digest), lambda pid: progress(_waiting(pid, digest)), self.root):
                with clear_failures(self.root):
                    record = self._take(digest)
                cached = record is not None
                record = record or build_and_publish(self._layout, key, build, self.clock)
        assert record is not None  # found, taken or built
        return Stored(self._use(digest, record), cached, time.perf_counter() - begun, record.size)

    def ls(self) -> list[Entry]:
        """The engines, the one used last first; files are not read, so this is quick.

        Raises:
            StoreError: the store may not be read.
        """
        with clear_failures(self.root):
            entries = [self._layout.describe(digest) for digest in self._layout.digests()]
        return sorted(entries, key=lambda entry: (entry.last_used, entry.digest), reverse=True)

    def verify(self, repair: bool = False, progress: Progress = silent) -> list[Damage]:
        """Reads every engine and returns all that is wrong.

        Args:
            repair: moves damaged engines aside, so that they are built anew when asked for.
            progress: told which engine is being read.

        Raises:
            StoreError: the store may not be read, or not written where ``repair`` is set.
        """
        found: list[Damage] = []
        digests = self._layout.digests()
        for number, digest in enumerate(digests, start=1):
            progress(f"checking engine {digest[:12]} ({number} of {len(digests)})")
            _, damages = self._look(digest)
            found.extend(damages)
            if damages and repair:
                with clear_failures(self.root), held_if_free(self._layout.lock(digest)) as ours:
                    if ours:
                        self._take(digest)
        return found

    def gc(
        self,
        roots: Iterable[str] = (),
        older_than: timedelta | None = None,
        max_bytes: int | None = None,
        dry_run: bool = False,
    ) -> Collected:
        """Removes engines that nobody needs, and always what killed builders left and what was found damaged.

        Engines of ``roots`` and of registered deployments stay, and so do those that somebody is building. A
        process that was given an engine and has not yet exported it is protected by ``older_than`` alone.

        Args:
            roots: digests.
            older_than: only engines whose last use lies further back.
            max_bytes: beyond those, the ones used longest ago until the rest, roots included, fits. Without
                ``older_than`` and ``max_bytes`` every engine that is no root's goes.
            dry_run: removes nothing and says what would go.

        Raises:
            StoreError: the store cannot be written.
        """
        with clear_failures(self.root):
            return collect(self._layout, roots, older_than, max_bytes, dry_run, self.clock(), self.warn)

    def register_root(self, path: Path) -> None:
        """Keeps the engines that the deployment at ``path`` names in its manifest, as long as it is there.

        Raises:
            StoreError: the store cannot be written.
        """
        with clear_failures(self.root):
            register(self._layout, path)

    def export_entry(self, digest: str, destination: Path) -> EngineBlob:
        """Copies an engine and its sidecar into ``destination``, a folder of its own, and returns the copy.

        :func:`load_entry` reads it back and needs no store.

        Raises:
            StoreError: there is no such engine, or the copy cannot be made; nothing half-copied stays behind.
            EngineError: the engine is damaged.
        """
        record = read_record(self._layout.entry(digest)) if is_digest(digest) else None
        if record is None or not self._layout.entry(digest).is_dir():
            raise StoreError(
                f"no engine is called {digest!r}", where=self.root, remedy="`stagekit store ls` lists them"
            )
        if isinstance(record, Damage):
            raise StoreError(
                f"the engine is damaged: {record}", where=self.root, remedy="`stagekit compile` rebuilds it"
            )
        with clear_failures(destination, remedy="give an empty or new folder on a disk with space"):
            return export(record, self._layout.entry(digest), destination)

    def _look(self, digest: str) -> tuple[Record | None, tuple[Damage, ...]]:
        """The record and the damage of an entry; neither where there is none."""
        folder = self._layout.entry(digest)
        with clear_failures(self.root):
            return check(folder, digest) if folder.is_dir() else (None, ())

    def _take(self, digest: str) -> Record | None:
        """An engine's record if it is sound; a damaged one is moved aside. For the holder of the key's lock."""
        record, damages = self._look(digest)
        if damages:
            self._tell(damages, f"moved to {self._layout.set_aside(digest)}")
            return None
        return record

    def _take_if_free(self, digest: str, damages: tuple[Damage, ...]) -> Record | None:
        """The same for one who found ``damages`` without the lock, and who cannot do more than say so."""
        try:
            with held_if_free(self._layout.lock(digest)) as ours:
                if ours:
                    return self._take(digest)
        except OSError as error:
            self._tell(damages, f"it cannot be moved aside ({error.strerror})")
        else:
            if self._layout.entry(digest).is_dir():  # else it was being thrown away while it was read
                self._tell(damages, "left to the process that is at it")
        return None

    def _use(self, digest: str, record: Record) -> EngineBlob:
        folder = self._layout.entry(digest)
        with suppress(OSError):  # a store that is read-only for us still serves
            (folder / USED).touch()
            os.utime(folder / USED, (self.clock(), self.clock()))
        return record.blob(folder)

    def _tell(self, damages: tuple[Damage, ...], outcome: str) -> None:
        self.warn(f"a stored engine is damaged: {'; '.join(map(str, damages))}; {outcome}")


def _waiting(pid: str, digest: str) -> str:
    return f"waiting for process {pid}, which is building the same engine ({digest[:12]})"
