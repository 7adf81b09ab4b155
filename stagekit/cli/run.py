"""``stagekit run``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import click

from stagekit.cli.console import PATH, emit, json_option, table
from stagekit.data.images import list_images, read_image, write_mask
from stagekit.session import Session


@click.command()
@click.argument("deployment", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--task", "tasks", multiple=True, help="A task's name; once for each. All by default.")
@click.option("-o", "--output", type=PATH, default=Path("out"), show_default=True, help="Folder for the results.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Also write the image under its labels.")
@json_option
def command(
    deployment: Path, images: tuple[Path, ...], tasks: tuple[str, ...], output: Path, overlay: bool, as_json: bool
) -> None:
    """Run tasks of a DEPLOYMENT on IMAGES (files or folders).

    For each image and task it writes a label map, an indexed PNG with the task's palette in the image's own
    size, and an overlay.

    \b
    Example:
      stagekit run lite0.deploy --task landcover --task water photo.jpg -o out/
    """
    paths = list_images(images)
    rows: list[dict[str, Any]] = []
    with Session(deployment, tasks or None) as session, _bar(len(paths)) as bar:
        output.mkdir(parents=True, exist_ok=True)
        for path, stem in zip(paths, _stems(paths), strict=True):
            image = read_image(path)
            begun = time.perf_counter()
            results = session.run(image)
            seconds = time.perf_counter() - begun
            for name, labels in results.items():
                rows.append(
                    {
                        "image": str(path),
                        "task": name,
                        "seconds": seconds,
                        **_write(session, name, image, labels, output, stem, overlay),
                    }
                )
            bar.advance()
        statistics = session.statistics
    made, shared, spent = statistics.calls, statistics.shared, statistics.seconds
    calls = [{"call": c, "calls": n, "shared": shared[c], "seconds": spent[c]} for c, n in made.items()]
    shown = [(c, n, shared[c], 1000 * spent[c] / n) for c, n in made.items()]
    text = table(["call", "made", "shared", "ms each"], shown)
    emit({"results": rows, "calls": calls}, f"{text}\n{len(paths)} images, {len(rows)} results in {output}", as_json)


def _write(
    session: Session, task: str, image: Any, labels: Any, output: Path, stem: str, overlay: bool
) -> dict[str, Any]:
    import numpy as np
    from PIL import Image

    from stagekit.data.overlay import overlay as blend

    facts = session.tasks[task]
    if facts.output == "logits":
        path = output / f"{stem}.{task}.npy"
        np.save(path, labels, allow_pickle=False)
        return {"logits": str(path)}
    palette = [c.color for c in facts.classes]
    path = output / f"{stem}.{task}.png"
    write_mask(path, labels, palette)
    counts = np.bincount(labels.ravel(), minlength=len(facts.classes))
    shares = {c.name: float(n) / labels.size for c, n in zip(facts.classes, counts, strict=False)}
    written: dict[str, Any] = {"labels": str(path), "shares": shares}
    if overlay:
        picture = output / f"{stem}.{task}.overlay.png"
        Image.fromarray(blend(image, labels, palette)).save(picture)
        written["overlay"] = str(picture)
    return written


def _stems(paths: list[Path]) -> list[str]:
    """Names for results that do not collide when two folders hold images of one name."""
    stems = [p.stem for p in paths]
    return [
        s if stems.count(s) == 1 else f"{p.parent.name}_{s}_{i}"
        for i, (s, p) in enumerate(zip(stems, paths, strict=True))
    ]


class Bar(Protocol):
    """Shows how far a run is."""

    def advance(self) -> None: ...


class _Silent:
    def advance(self) -> None:
        """Nobody watches."""


@contextmanager
def _bar(total: int) -> Iterator[Bar]:
    import sys

    if total < 2 or not sys.stderr.isatty():
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("images", total=total)

        class Shown:
            def advance(self) -> None:
                display.advance(task)

        yield Shown()
