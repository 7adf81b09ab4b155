"""All available targets and profiles, with all tasks and with each alone; goes on where it was interrupted.

Every cell is measured in a process of its own: memory is its own, and what one vendor's runtime does to a
process, up to ending it, is not the next one's trouble.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagekit import target as targets
from stagekit.bench import results
from stagekit.bench.results import ResultError
from stagekit.errors import StagekitError
from stagekit.target import Profile


@dataclass(frozen=True, slots=True)
class Cell:
    """A profile with some tasks.

    Args:
        tasks: none for all.
    """

    profile: Profile
    tasks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return ".".join((self.profile.name, *self.tasks))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell: ``measured``, ``kept`` from before, ``failed`` or ``left``; and why."""

    cell: str
    what: str
    why: str = ""


def cells(tasks: Sequence[str], int8: bool) -> tuple[list[Cell], dict[str, str]]:
    """The cells that can run here, and why the other profiles cannot, by name.

    Args:
        int8: there is a calibration record.
    """
    found: list[Cell] = []
    out: dict[str, str] = {}
    profiles: dict[str, tuple[str, Path]] = {}
    for entry in targets.entries():
        for name, path in targets.shipped_profiles(entry).items():
            profiles.setdefault(name, (entry, path))  # aliases ship the same ones
    for name, (entry, path) in profiles.items():
        try:
            available = targets.get(entry).probe()
            profile = targets.load_profile(str(path))
        except StagekitError as error:
            out[name] = error.what
            continue
        if not (available.build and available.run):
            out[name] = available.reason or "it cannot be built and run here"
        elif profile.precision == "int8" and not int8:
            out[name] = "int8 needs --calibration"
        else:
            alone = [(task,) for task in tasks] if len(tasks) > 1 else []
            found += [Cell(profile, chosen) for chosen in [(), *alone]]
    return found, out


def run_matrix(
    wanted: Sequence[Cell],
    file: Callable[[Cell], Path],
    measure: Callable[[Cell], None],
    budget: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Measures what has no complete results yet, all tasks of every profile first.

    Args:
        file: where a cell's results are.
        measure: writes them.
        budget: seconds; no cell is begun that would, as long as the longest so far, end after them.
    """
    begun, longest = clock(), 0.0
    outcomes: list[Outcome] = []
    for number, cell in enumerate(sorted(wanted, key=lambda c: len(c.tasks)), start=1):
        if _complete(file(cell)):
            outcomes.append(Outcome(cell.name, "kept"))
            continue
        started = clock()
        if budget is not None and started + longest - begun > budget:
            outcomes.append(Outcome(cell.name, "left", "no time in the budget"))
            continue
        progress(f"{cell.name} ({number} of {len(wanted)})")
        try:
            measure(cell)
        except StagekitError as error:
            outcomes.append(Outcome(cell.name, "failed", str(error)))
        else:
            outcomes.append(Outcome(cell.name, "measured"))
        longest = max(longest, clock() - started)
    return outcomes


def left_out(out: Mapping[str, str]) -> list[Outcome]:
    """Profiles that cannot run here, as outcomes."""
    return [Outcome(name, "left", why) for name, why in out.items()]


def _complete(path: Path) -> bool:
    try:
        return path.is_file() and results.read(path).status == "complete"
    except ResultError:
        return False
