"""What is asked for: kinds of requests in shares, and arrivals that were recorded.

A mix is a small TOML file::

    [[request]]
    tasks = ["landcover", "sea"]     # of one image
    share = 3
    [[request]]
    tasks = ["sea"]
    share = 1
    images = "own"                   # each task an image of its own; "same" by default

A trace of arrivals is CSV with the header ``seconds,tasks``, and optionally ``image``: when, which tasks
(joined by ``+``), and the stem of the picture.
"""

from __future__ import annotations

import csv
import math
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stagekit.errors import UsageError, nearest


class Asked(BaseModel):
    """A kind of request: tasks of one image, or of an image each."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tasks: tuple[str, ...] = Field(min_length=1)
    share: float = Field(1.0, gt=0, allow_inf_nan=False)
    images: Literal["same", "own"] = "same"

    def __str__(self) -> str:
        own = " (an image each)" if self.images == "own" else ""
        return f"{self.share:g} x {' + '.join(self.tasks)}{own}"


class Mix(BaseModel):
    """Kinds of requests with their shares."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    request: tuple[Asked, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Sample:
    """One query: for each part, an image (its index) and the tasks wanted of it."""

    parts: tuple[tuple[int, tuple[str, ...]], ...]
    request: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A recorded request; seconds since the first."""

    seconds: float
    sample: Sample


def everything(tasks: Sequence[str]) -> Mix:
    """All tasks of each image."""
    return Mix(request=(Asked(tasks=tuple(tasks)),))


def read_mix(path: Path, known: Sequence[str]) -> Mix:
    """A mix from its file.

    Raises:
        UsageError: not TOML, an unknown key, or a task that is not deployed.
    """
    try:
        mix = Mix.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"the mix cannot be read: {error}", where=path) from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise UsageError(f"the mix is not valid: {problems}", where=path) from error
    for asked in mix.request:
        _check_tasks(asked.tasks, known, path)
    return mix


def samples(mix: Mix, images: int, count: int, seed: int = 0) -> tuple[Sample, ...]:
    """Queries of a mix: kinds drawn by their shares, images in turn."""
    shares = np.array([asked.share for asked in mix.request])
    kinds = np.random.default_rng(seed).choice(len(shares), count, p=shares / shares.sum())
    made: list[Sample] = []
    turn = 0
    for kind in kinds.tolist():
        asked = mix.request[kind]
        groups = [asked.tasks] if asked.images == "same" else [(task,) for task in asked.tasks]
        made.append(Sample(tuple(((turn + i) % images, group) for i, group in enumerate(groups)), kind))
        turn += len(groups)
    return tuple(made)


def read_arrivals(path: Path, known: Sequence[str], stems: Sequence[str], kind: int = 0) -> tuple[Arrival, ...]:
    """Arrivals from a CSV file, in order, the first at 0.

    Args:
        stems: of the pictures that there are; a row without one takes the next in turn.
        kind: the number of the first kind of request; each set of tasks is another.

    Raises:
        UsageError: a column is missing, a time is no number or goes back, a task or picture is unknown.
    """
    places = {stem: index for index, stem in enumerate(stems)}
    made: list[Arrival] = []
    kinds: dict[tuple[str, ...], int] = {}
    try:
        rows = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"the arrivals cannot be read: {error}", where=path) from error
    for line, row in enumerate(rows, start=2):
        where = f"{path}:{line}"
        try:
            seconds, tasks = float(row["seconds"]), tuple(row["tasks"].split("+"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError("expected seconds,tasks[,image], e.g. 0.25,landcover+sea", where=where) from error
        if not math.isfinite(seconds):
            raise UsageError(f"expected seconds, found {seconds}", where=where)
        _check_tasks(tasks, known, where)
        stem = row.get("image") or ""
        if stem and stem not in places:
            raise UsageError(f"no picture is called {stem!r}" + nearest(stem, stems), where=where)
        if made and seconds < made[-1].seconds:
            raise UsageError(f"{seconds} s comes before the row above", where=where)
        image = places[stem] if stem else len(made) % len(stems)
        made.append(Arrival(seconds, Sample(((image, tasks),), kinds.setdefault(tasks, kind + len(kinds)))))
    if not made:
        raise UsageError("expected arrivals, found none", where=path)
    begun = made[0].seconds
    return tuple(Arrival(a.seconds - begun, a.sample) for a in made)


def recorded(arrivals: Sequence[Arrival]) -> tuple[Asked, ...]:
    """The kinds of requests that arrive, by their numbers, each with how often it does."""
    kinds = Counter((a.sample.request, a.sample.parts[0][1]) for a in arrivals)
    return tuple(Asked(tasks=tasks, share=count) for (_, tasks), count in sorted(kinds.items()))


def _check_tasks(tasks: Sequence[str], known: Sequence[str], where: str | Path) -> None:
    for task in tasks:
        if task not in known:
            raise UsageError(f"no task {task!r} is deployed" + nearest(task, known), where=where)
