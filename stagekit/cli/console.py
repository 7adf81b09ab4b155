"""What all verbs share: results on stdout (text or JSON), progress on stderr."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from stagekit.errors import StagekitError, UsageError

F = TypeVar("F", bound=Callable[..., Any])

json_option: Callable[[F], F] = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def emit(data: Any, text: str, as_json: bool, failure: StagekitError | None = None) -> None:
    """Prints a result: JSON alone, or the text made for people.

    Args:
        failure: what the result amounts to; its facts are in the same JSON document, and its exit code is left with.
    """
    facts = failure.as_dict() if failure else {}
    click.echo(json.dumps({**data, **facts}, indent=1) if as_json else text)
    if failure is not None:
        if as_json:
            raise click.exceptions.Exit(failure.exit_code)
        raise failure


def note(message: str) -> None:
    """A line for people, on stderr."""
    click.echo(message, err=True)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """What is going on now: a spinner with the time on a terminal, lines elsewhere; always on stderr."""
    if not sys.stderr.isatty():
        yield lambda text: click.echo(f"  {text}", err=True)
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("")
        yield lambda text: display.update(task, description=text)


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned by their widest cell; numbers to the right."""
    cells = [list(map(_cell, row)) for row in rows]
    widths = [max([len(h), *(len(row[i]) for row in cells)]) for i, h in enumerate(headings)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headings))]

    def line(row: Sequence[str]) -> str:
        parts = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(list(headings)), line(["-" * w for w in widths]), *map(line, cells)])


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    # Names come out of strangers' files: what a terminal would obey or break the line at is written out.
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in str(value))


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``512x512`` to (height, width).

    Raises:
        UsageError: it has another form.
    """
    if text is None:
        return None
    sides = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text.lower(), re.ASCII)
    if sides is None or not int(sides[1]) * int(sides[2]):
        raise UsageError(f"expected HEIGHTxWIDTH in pixels, e.g. 512x512, got {text[:40]!r}", where="--input")
    return int(sides[1]), int(sides[2])


def parse_triple(text: str | None, option: str) -> tuple[float, float, float] | None:
    """``123.7,116.3,103.5`` to three numbers."""
    if text is None:
        return None
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"expected three numbers R,G,B, got {text!r}", where=option) from error
    return a, b, c


@contextmanager
def stoppable(left: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C within the block is told what it leaves behind.

    Args:
        left: that, in words; nothing where there is nothing.
    """
    try:
        yield
    except KeyboardInterrupt:
        if said := left():
            note(f"stopped; {said}")
        raise


def counted(number: int, what: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def megabytes(count: int) -> str:
    """Bytes for people."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


PATH = click.Path(path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)


class Number(click.FloatRange):
    """A number within bounds; click's own ranges let ``nan`` and ``inf`` through."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number
