"""``stagekit run``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from stagekit.cli.console import PATH, counted, emit, json_option, note, table
from stagekit.errors import UsageError

if TYPE_CHECKING:
    from stagekit.runtime.answer import Results
    from stagekit.runtime.statistics import CallStatistics
    from stagekit.runtime.trace import Spent
    from stagekit.session import Session

WINDOW = 4
"""Images under way at once: one is read and one written while others are computed."""

EVERY = 0.2
"""Seconds between two looks at the progress line."""


@click.command()
@click.argument("deployment", type=PATH)
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--task", "tasks", multiple=True, help="A task's name; once for each. All by default.")
@click.option("-o", "--output", type=PATH, default=Path("out"), show_default=True, help="Folder for the results.")
@click.option("--overlay/--no-overlay", default=True, show_default=True, help="Also write the image under its labels.")
@click.option("--trace", "trace_path", type=PATH, help="Write what ran when, for chrome://tracing or ui.perfetto.dev.")
@json_option
def command(
    deployment: Path,
    images: tuple[Path, ...],
    tasks: tuple[str, ...],
    output: Path,
    overlay: bool,
    trace_path: Path | None,
    as_json: bool,
) -> None:
    """Run tasks of a DEPLOYMENT on IMAGES (files or folders).

    For each image and task it writes a label map, an indexed PNG with the task's palette in the image's own
    size, and an overlay.

    \b
    Example:
      stagekit run lite0.deploy --task landcover --task water photo.jpg -o out/
      stagekit run lite0.deploy photos/ -o out/ --trace trace.json
    """
    from stagekit.data.images import list_images
    from stagekit.runtime.trace import Trace
    from stagekit.session import Session

    paths = list_images(images)
    if any(path.is_dir() and output.is_dir() and path.samefile(output) for path in images):
        raise UsageError(
            "results there would be taken for images the next time", where=output, remedy="name another -o"
        )
    stems = dict(zip(paths, _stems(paths), strict=True))
    rows: list[dict[str, Any]] = []
    trace = Trace() if trace_path else None
    with Session(deployment, tasks or None, trace=trace) as session, _line(session, len(paths)) as line:
        output.mkdir(parents=True, exist_ok=True)
        for ran in _answers(session, paths):
            for name, labels in ran.results.items():
                written = _write(session, name, ran.image, labels, output, stems[ran.path], overlay)
                rows.append({"image": str(ran.path), "task": name, "seconds": ran.seconds, **written})
            line.advance()
        statistics = session.statistics
    made, shared, spent = statistics.calls, statistics.shared, statistics.seconds
    calls = [{"call": c, "calls": n, "shared": shared[c], "seconds": spent[c]} for c, n in made.items()]
    shown = [(c, n, shared[c], 1000 * spent[c] / n) for c, n in made.items()]
    text = [table(["call", "made", "shared", "ms each"], shown)]
    data: dict[str, Any] = {"results": rows, "calls": calls}
    if trace is not None and trace_path is not None:
        trace.write(trace_path)
        where = trace.summary()
        data |= {"trace": str(trace_path), "time": [asdict(row) for row in where]}
        text += ["", _spent(where), f"trace in {trace_path}"]
    text.append(f"{counted(len(paths), 'image')}, {counted(len(rows), 'result')} in {output}")
    emit(data, "\n".join(text), as_json)


@dataclass(frozen=True, slots=True)
class _Ran:
    """An image with its results; ``seconds`` from asking to answer."""

    path: Path
    image: Any
    results: Results
    seconds: float


def _answers(session: Session, paths: Sequence[Path]) -> Iterator[_Ran]:
    """Results in the order of the images, while others are read and computed."""
    from stagekit.data.images import read_image

    pending: deque[tuple[Path, Any, float, list[float], Future[Results]]] = deque()

    def first() -> _Ran:
        path, image, begun, ended, future = pending.popleft()
        results = future.result()
        return _Ran(path, image, results, (ended[0] if ended else time.perf_counter()) - begun)

    for path in paths:
        image = read_image(path)
        begun, ended = time.perf_counter(), list[float]()
        future = session.submit(image)
        future.add_done_callback(lambda _, ended=ended: ended.append(time.perf_counter()))  # type: ignore[misc]
        pending.append((path, image, begun, ended, future))
        if len(pending) == WINDOW:
            yield first()
    while pending:
        yield first()


def _write(
    session: Session, task: str, image: Any, labels: Any, output: Path, stem: str, overlay: bool
) -> dict[str, Any]:
    import numpy as np

    from stagekit.data.images import write_image, write_mask
    from stagekit.data.overlay import overlay as blend
    from stagekit.whole import write_whole

    facts = session.tasks[task]
    if facts.output == "logits":
        path = output / f"{stem}.{task}.npy"
        encoded = BytesIO()
        np.save(encoded, labels, allow_pickle=False)
        write_whole(path, encoded.getvalue())
        return {"logits": str(path)}
    palette = [c.color for c in facts.classes]
    path = output / f"{stem}.{task}.png"
    write_mask(path, labels, palette)
    counts = np.bincount(labels.ravel(), minlength=len(facts.classes))
    shares = {c.name: float(n) / labels.size for c, n in zip(facts.classes, counts, strict=False)}
    written: dict[str, Any] = {"labels": str(path), "shares": shares}
    if overlay:
        picture = output / f"{stem}.{task}.overlay.png"
        write_image(picture, blend(image, labels, palette))
        written["overlay"] = str(picture)
    return written


def _spent(rows: Sequence[Spent]) -> str:
    cells = [(r.device, r.what, r.calls, r.images, 1000 * r.seconds, 100 * r.share) for r in rows]
    return table(["device", "where the time went", "calls", "images", "ms", "%"], cells)


def _stems(paths: list[Path]) -> list[str]:
    """Names for results that do not collide when two folders hold images of one name."""
    stems = [p.stem for p in paths]
    return [
        s if stems.count(s) == 1 else f"{p.parent.name}_{s}_{i}"
        for i, (s, p) in enumerate(zip(stems, paths, strict=True))
    ]


class Line(Protocol):
    """Shows how far a run is."""

    def advance(self) -> None: ...


def progress_text(done: int, total: int, seconds: float, statistics: CallStatistics) -> str:
    """``12/40 images  3.1 frames/s  queue 4  shared: stem 50 %, stage1 50 %``."""
    made, shared = statistics.calls, statistics.shared
    hits = [f"{c} {100 * n / (n + made[c]):.0f} %" for c, n in shared.items() if n]
    rate = done / seconds if seconds > 0 else 0.0
    parts = [f"{done}/{total} images", f"{rate:.1f} frames/s", f"queue {statistics.waiting}"]
    return "  ".join([*parts, f"shared: {', '.join(hits)}"] if hits else parts)


@contextmanager
def _line(session: Session, total: int) -> Iterator[Line]:
    """A line that is rewritten on a terminal; one every few seconds elsewhere; always on stderr."""
    import sys

    begun = time.perf_counter()
    done = 0

    def text() -> str:
        return progress_text(done, total, time.perf_counter() - begun, session.statistics)

    if not sys.stderr.isatty():
        told = begun

        class Told:
            def advance(self) -> None:
                nonlocal done, told
                done += 1
                if time.perf_counter() - told > 25 * EVERY:
                    told = time.perf_counter()
                    note(text())

        yield Told()
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(
        console=Console(stderr=True), transient=True, get_renderable=lambda: Text(text()), refresh_per_second=1 / EVERY
    ):

        class Shown:
            def advance(self) -> None:
                nonlocal done
                done += 1

        yield Shown()
