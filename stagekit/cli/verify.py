"""``stagekit verify``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from stagekit.cli.console import PATH, SEED, emit, json_option, progress, table
from stagekit.errors import VerificationFailed


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the random frames.")
@json_option
def command(bundle: Path, seed: int, as_json: bool) -> None:
    """Run the chain of stages and the uncut model on the same frames and compare every boundary.

    \b
    Example:
      stagekit verify resnet50.stages
    """
    from stagekit.partition.verify import TOLERANCE, verify

    with progress() as tell:
        errors = verify(bundle, seed=seed, progress=tell)
    worst = max(errors, key=lambda e: (not e.ok, e.relative))
    rows = [(e.boundary, f"{e.relative:.2e}", f"{e.allowed():.0e}", "equal" if e.ok else "DIFFERS") for e in errors]
    text = table(["boundary", "worst relative error", "allowed", ""], rows)
    data = {"bundle": str(bundle), "tolerance": TOLERANCE, "boundaries": [{**asdict(e), "ok": e.ok} for e in errors]}
    what = f"the chain differs from the uncut model by {worst.relative:.2e} at {worst.boundary}"
    emit(data, text, as_json, None if worst.ok else VerificationFailed(what, where=bundle))
