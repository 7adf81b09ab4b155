"""All available targets and profiles, with all tasks and with each alone; goes on where it was interrupted.

Every cell is measured in a process of its own: memory is its own, and what one vendor's runtime does to a
process, up to ending it, is not the next one's trouble.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagekit import targets
from stagekit.bench import results
from stagekit.bench.results import Result, ResultError
from stagekit.build.calibrated import INTEGERS
from stagekit.errors import StagekitError, UsageError, nearest
from stagekit.target import Profile

REFERENCE = "f32"
"""The precision that others are compared with."""


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

    @property
    def needs_record(self) -> bool:
        """It computes in integers, whose ranges a calibration record has."""
        return self.profile.precision in INTEGERS


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a cell: ``measured``, ``kept`` from before, ``failed`` or ``left``; and why."""

    cell: str
    what: str
    why: str = ""


def cells(
    tasks: Sequence[str], record: bool, chosen: Sequence[str] = (), alone: bool = True
) -> tuple[list[Cell], dict[str, str]]:
    """The cells that can run here, floats first, and why the other profiles cannot, by name.

    Args:
        record: there is a calibration record.
        chosen: names of profiles; all without.
        alone: also each task alone, where there are several.

    Raises:
        UsageError: no such profile is shipped.
    """
    found: list[Cell] = []
    out: dict[str, str] = {}
    profiles: dict[str, tuple[str, Path]] = {}
    for entry in targets.entries():
        for name, path in targets.shipped_profiles(entry).items():
            profiles.setdefault(name, (entry, path))  # aliases ship the same ones
    for name in chosen:
        if name not in profiles:
            raise UsageError(f"no target ships a profile {name!r}" + nearest(name, profiles), where="--profile")
    for name in chosen or profiles:
        entry, path = profiles[name]
        try:
            target, profile = targets.get(entry), targets.load_profile(str(path))
            available = target.probe()
            refusal = targets.refusal(target, profile) if available.build else ""
        except StagekitError as error:
            out[name] = error.what
            continue
        if not (available.build and available.run):
            out[name] = available.reason or "it cannot be built and run here"
        elif refusal:
            out[name] = refusal
        elif Cell(profile).needs_record and not record:
            out[name] = f"{profile.precision} needs --calibration"
        else:
            each = [(task,) for task in tasks] if alone and len(tasks) > 1 else []
            found += [Cell(profile, some) for some in [(), *each]]
    return sorted(found, key=lambda cell: (len(cell.tasks), cell.profile.precision != REFERENCE)), out


def reference(wanted: Sequence[Cell]) -> Cell | None:
    """The first cell in float32 with all tasks, which the others' labels are compared with."""
    return next((cell for cell in wanted if not cell.tasks and cell.profile.precision == REFERENCE), None)


def run_matrix(
    wanted: Sequence[Cell],
    file: Callable[[Cell], Path],
    measure: Callable[[Cell], None],
    budget: float | None = None,
    clock: Callable[[], float] = time.monotonic,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Measures what has no complete results yet, in the order given.

    Args:
        file: where a cell's results are.
        measure: writes them.
        budget: seconds; no cell is begun that would, as long as the longest so far, end after them.
    """
    begun, longest = clock(), 0.0
    outcomes: list[Outcome] = []
    for number, cell in enumerate(wanted, start=1):
        before = kept(file(cell))
        if before is not None and before.status == "complete":
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


def kept(path: Path) -> Result | None:
    """Results that are in a cell's file; none where there is no file, or none that this version reads."""
    try:
        return results.read(path)
    except ResultError:
        return None
