"""Where things lie in a store.

::

    objects/<aa>/<digest>/   an engine's files, engine.json, and `used`, whose time is the last use
    tmp/<digest>-<random>/   engines being built, or being thrown away; only a lock's holder touches them
    damaged/<digest>-<random>/
    locks/<digest>           one a key, while somebody builds or removes it
    roots/<hash>.json        deployments whose engines are kept
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stagekit.store.files import sync, tree_bytes
from stagekit.store.key import is_digest
from stagekit.store.record import SIDECAR, USED, Damage, Record, read_record


@dataclass(frozen=True, slots=True)
class Entry:
    """One engine in a store, as its sidecar tells; its files are not read.

    Args:
        target: like the four after it, empty where ``problem`` is not.
        bytes: what it takes on disk.
        problem: why the sidecar cannot be read; empty when it can.
    """

    digest: str
    target: str
    profile: str
    graph: str
    device: str
    toolchain: str
    bytes: int
    created: datetime
    last_used: datetime
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths inside the store at ``root``; nothing is created by asking for them."""

    root: Path

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def damaged(self) -> Path:
        return self.root / "damaged"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def roots(self) -> Path:
        return self.root / "roots"

    def entry(self, digest: str) -> Path:
        return self.objects / digest[:2] / digest

    def lock(self, digest: str) -> Path:
        return self.locks / digest

    def digests(self) -> list[str]:
        """The engines in the store, ascending."""
        return sorted(path.name for path in self.objects.glob("??/*") if is_digest(path.name))

    def temporaries(self, digest: str = "*") -> Iterator[tuple[str, Path]]:
        """What lies under ``tmp``, with the key that each piece belongs to."""
        for path in sorted(self.temporary.glob(f"{digest}-*")):
            owner = path.name.partition("-")[0]
            if is_digest(owner):
                yield owner, path

    def new_temporary(self, digest: str) -> Path:
        """A fresh empty folder for the holder of the key's lock."""
        path = self.temporary / _unique(digest)
        # Not mkdtemp: its folders are closed to other users, and this one becomes an entry of a shared store.
        path.mkdir(parents=True)
        return path

    def set_aside(self, digest: str) -> Path:
        """Moves an entry to ``damaged/`` at one stroke and returns its new place; for the holder of the lock."""
        self.damaged.mkdir(parents=True, exist_ok=True)
        return self.entry(digest).rename(self.damaged / _unique(digest))

    def remove(self, digest: str) -> None:
        """Takes an entry out at one stroke, then deletes it; for the holder of the lock."""
        self.temporary.mkdir(parents=True, exist_ok=True)
        doomed = self.entry(digest).rename(self.temporary / _unique(digest))
        sync(self.entry(digest).parent)
        shutil.rmtree(doomed)

    def last_used(self, digest: str) -> datetime:
        """When an engine was last asked for; the epoch for one that is not there."""
        folder = self.entry(digest)
        for path in (folder / USED, folder / SIDECAR, folder):
            with suppress(OSError):
                return datetime.fromtimestamp(path.stat().st_mtime, UTC)
        return datetime.fromtimestamp(0, UTC)

    def describe(self, digest: str) -> Entry:
        """An entry from its sidecar alone."""
        folder = self.entry(digest)
        used = self.last_used(digest)
        record: Record | Damage | OSError
        try:
            record = read_record(folder)
        except OSError as error:
            record = error
        if not isinstance(record, Record):
            return Entry(digest, "", "", "", "", "", tree_bytes(folder), used, used, str(record))
        key = record.key
        return Entry(
            digest, key.target, key.profile, key.graph, key.device, key.toolchain, record.size, record.created, used
        )


def _unique(digest: str) -> str:
    return f"{digest}-{uuid.uuid4().hex[:12]}"
