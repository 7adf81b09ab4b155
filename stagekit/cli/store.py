"""``stagekit store``."""

from __future__ import annotations

import re
from datetime import timedelta

import click

from stagekit.cli.console import counted, emit, json_option, megabytes, note, progress, table
from stagekit.errors import UsageError, VerificationFailed


@click.group()
def command() -> None:
    """List, verify and clean the store of compiled engines.

    STAGEKIT_STORE names the folder; by default it is stagekit/engines in the user's cache folder.

    \b
    Example:
      stagekit store ls
    """


@command.command("ls")
@json_option
def ls(as_json: bool) -> None:
    """List the engines, the one used last first."""
    from stagekit.store import Store

    store = Store.default()
    entries = store.ls()
    rows = [
        (e.digest[:12], e.target, e.graph[:12], megabytes(e.bytes), f"{e.last_used:%Y-%m-%d %H:%M}", e.problem)
        for e in entries
    ]
    data = [
        {
            "digest": e.digest,
            "target": e.target,
            "graph": e.graph,
            "device": e.device,
            "toolchain": e.toolchain,
            "bytes": e.bytes,
            "created": e.created.isoformat(),
            "last_used": e.last_used.isoformat(),
            "problem": e.problem,
        }
        for e in entries
    ]
    total = megabytes(sum(e.bytes for e in entries))
    text = table(["engine", "target", "graph", "size", "last used", ""], rows)
    emit(
        {"root": str(store.root), "engines": data},
        f"{text}\n{counted(len(rows), 'engine')}, {total}, in {store.root}",
        as_json,
    )


@command.command("verify")
@click.option("--repair", is_flag=True, help="Move damaged engines aside, so that they are built again.")
@json_option
def verify(repair: bool, as_json: bool) -> None:
    """Check every byte of every engine against its record."""
    from stagekit.store import Store

    store = Store(Store.default().root, warn=note)
    with progress() as tell:
        damages = store.verify(repair=repair, progress=tell)
    data = [{"file": str(d.file), "expected": d.expected, "found": d.found} for d in damages]
    failure = None
    if damages and not repair:
        failure = VerificationFailed(
            f"{counted(len(damages), 'file')} damaged", where=store.root, remedy="stagekit store verify --repair"
        )
    emit({"damaged": data}, "\n".join(map(str, damages)) or "all engines are whole", as_json, failure)


@command.command("gc", short_help="Remove engines that nobody needs.")
@click.option("--older-than", metavar="AGE", help="Only engines not used for this long: 12h, 30d.")
@click.option("--max-size", metavar="SIZE", help="Then the least recently used until the rest fits: 500M, 10G.")
@click.option("--all", "everything", is_flag=True, help="Every engine that no deployment on this machine uses.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@json_option
def gc(older_than: str | None, max_size: str | None, everything: bool, dry_run: bool, as_json: bool) -> None:
    """Remove engines that nobody needs; those of deployments on this machine stay.

    \b
    Example:
      stagekit store gc --older-than 30d
    """
    from stagekit.store import Store

    if not (older_than or max_size or everything):
        raise UsageError("say what may go: --older-than, --max-size or --all")
    age = _scaled(older_than, {"h": 3600, "d": 86400, "w": 604800}, "--older-than")
    size = _scaled(max_size, {"M": 10**6, "G": 10**9, "T": 10**12}, "--max-size")
    store = Store(Store.default().root, warn=note)
    collected = store.gc(older_than=None if age is None else timedelta(seconds=age), max_bytes=size, dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    text = f"{verb} {counted(len(collected.removed), 'engine')}, {megabytes(collected.bytes)}"
    digests = [entry.digest for entry in collected.removed]
    emit({"removed": digests, "bytes": collected.bytes, "dry_run": dry_run}, text, as_json)


def _scaled(text: str | None, units: dict[str, int], option: str) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,5})([A-Za-z])", text)
    if match is None or match[2] not in units:
        raise UsageError(
            f"expected a number of at most five digits and one of {', '.join(units)}, got {text!r}", where=option
        )
    return int(match[1]) * units[match[2]]
