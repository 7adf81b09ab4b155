"""Throwing engines away: which may go, which are in use, and what dead processes left behind."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from stagekit.store.files import tree_bytes, write_synced
from stagekit.store.key import canonical, is_digest
from stagekit.store.layout import Entry, Layout
from stagekit.store.lock import held_if_free

Warn = Callable[[str], None]

MANIFEST: Final = "manifest.json"


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would have.

    Args:
        removed: engines, the one used longest ago first.
        in_use: engines that would have gone, had nobody been building, removing or just using them.
        leftovers: folders of killed builders and engines set aside as damaged.
        bytes: freed by all of these.
        dry_run: nothing was touched, and nothing was asked about use.
    """

    removed: tuple[Entry, ...]
    in_use: tuple[Entry, ...]
    leftovers: tuple[Path, ...]
    bytes: int
    dry_run: bool


def collect(
    layout: Layout,
    roots: Iterable[str],
    older_than: timedelta | None,
    max_bytes: int | None,
    dry_run: bool,
    now: float,
    warn: Warn,
) -> Collected:
    """Removes engines that are no root's and leftovers of dead processes; see :meth:`Store.gc`.

    Raises:
        OSError: the store cannot be written.
    """
    kept = {*roots, *rooted(layout, warn, drop=not dry_run)}
    entries = sorted((layout.describe(digest) for digest in layout.digests()), key=lambda entry: entry.last_used)
    leftovers, bytes_left_over = _sweep(layout, dry_run)
    removed: list[Entry] = []
    in_use: list[Entry] = []
    for entry in _doomed(entries, kept, older_than, max_bytes, datetime.fromtimestamp(now, UTC)):
        gone = dry_run or _remove(layout, entry)
        (removed if gone else in_use).append(entry)
    freed = bytes_left_over + sum(entry.bytes for entry in removed)
    return Collected(tuple(removed), tuple(in_use), leftovers, freed, dry_run)


def register(layout: Layout, deployment: Path) -> None:
    """Makes a deployment's engines roots for as long as its folder is there.

    Raises:
        OSError: the store cannot be written.
    """
    place = str(deployment.resolve())
    path = layout.roots / f"{hashlib.sha256(place.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}.json"
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):  # another process registers the same folder, with the same contents
        write_synced(path, canonical({"path": place}))


def rooted(layout: Layout, warn: Warn, drop: bool = False) -> set[str]:
    """Digests of the engines of all registered deployments.

    Args:
        warn: told about a deployment that is there but cannot be read; its engines are not protected.
        drop: forgets deployments that are no longer there.
    """
    digests: set[str] = set()
    for path in sorted(layout.roots.glob("*.json")):
        try:
            deployment = Path(json.loads(path.read_bytes())["path"])
        except (OSError, ValueError, TypeError, KeyError) as error:
            warn(f"{path}: this root cannot be read and protects nothing ({error})")
            continue
        if not deployment.is_dir():
            if drop:
                path.unlink(missing_ok=True)
            continue
        try:
            engines = json.loads((deployment / MANIFEST).read_bytes())["engines"]
            digests.update(engine["digest"] for engine in engines)
        except (OSError, ValueError, TypeError, KeyError) as error:
            warn(
                f"{deployment / MANIFEST}: the deployment's engines are not protected ({type(error).__name__}: {error})"
            )
    return digests


def _doomed(
    entries: list[Entry], kept: set[str], older_than: timedelta | None, max_bytes: int | None, now: datetime
) -> list[Entry]:
    """Which of the entries, sorted by last use, have to go."""
    free = [entry for entry in entries if entry.digest not in kept]
    if older_than is None and max_bytes is None:
        return free
    doomed = [entry for entry in free if older_than is not None and now - entry.last_used > older_than]
    if max_bytes is not None:
        left = sum(entry.bytes for entry in entries) - sum(entry.bytes for entry in doomed)
        for entry in free[len(doomed) :]:  # those too old are the first ones
            if left <= max_bytes:
                break
            doomed.append(entry)
            left -= entry.bytes
    return doomed


def _remove(layout: Layout, entry: Entry) -> bool:
    with held_if_free(layout.lock(entry.digest)) as ours:
        # Somebody may have come for it since it was listed, or taken it away.
        if not ours or layout.last_used(entry.digest) != entry.last_used:
            return False
        layout.remove(entry.digest)
        return True


def _sweep(layout: Layout, dry_run: bool) -> tuple[tuple[Path, ...], int]:
    """Deletes what killed builders left and what was set aside as damaged."""
    swept: list[Path] = []
    freed = 0
    for digest, path in layout.temporaries():
        with held_if_free(layout.lock(digest)) as dead:
            if dead:
                swept.append(path)
                freed += _delete(path, dry_run)
    for path in sorted(layout.damaged.glob("*")):
        swept.append(path)
        freed += _delete(path, dry_run)
    for path in sorted(layout.locks.glob("*")):
        if not dry_run and is_digest(path.name):
            with held_if_free(path):
                pass  # letting go of a lock removes its file
    return tuple(swept), freed


def _delete(path: Path, dry_run: bool) -> int:
    freed = tree_bytes(path)
    if not dry_run:
        shutil.rmtree(path, ignore_errors=True)
    return freed
