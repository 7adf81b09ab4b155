"""One cell of the matrix: compiled here, measured in a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stagekit.bench.labels import FILE
from stagekit.bench.matrix import Cell
from stagekit.bench.options import Options
from stagekit.bench.uncut import FLOATING
from stagekit.build.compile import compile
from stagekit.errors import StagekitError


@dataclass(frozen=True, slots=True)
class Bench:
    """What all cells have in common.

    Args:
        paths: the ``.stages`` folder and the ``.task`` folders.
        data: as given to ``--data``.
        place: the folder for results and deployments.
        calibration: the record of profiles that need one.
        reference: the cell whose labels the others' are compared with.
    """

    paths: tuple[Path, ...]
    data: tuple[str, ...]
    options: Options
    place: Path
    calibration: Path | None = None
    reference: Cell | None = None

    def file(self, cell: Cell) -> Path:
        """Where a cell's results are."""
        return self.place / f"{cell.name}.json"

    def measure(self, cell: Cell) -> None:
        """Compiles a cell and measures it.

        Raises:
            StagekitError: it cannot be compiled, or the process that measured it failed.
        """
        deployment = self.place / "deployments" / cell.profile.name / f"{cell.name}.deploy"
        chosen = [p for p in self.paths if not cell.tasks or not p.name.endswith(".task") or p.stem in cell.tasks]
        record = self.calibration if cell.needs_record else None
        compile(chosen, profile=cell.profile.name, output=deployment, calibration=record)
        command = [sys.executable, "-m", "stagekit", "bench", str(deployment), "-o", str(self.place), "--no-report"]
        done = subprocess.run([*command, *self.arguments(cell)], capture_output=True, text=True, check=False)
        if done.returncode < 0:
            raise StagekitError(f"the process that measured it was ended by {signal.Signals(-done.returncode).name}")
        if done.returncode:
            raise StagekitError(done.stderr.strip()[-500:] or f"it ended with {done.returncode}")

    def arguments(self, cell: Cell) -> list[str]:
        """The options of the command line that measures a cell."""
        o = self.options
        given: list[object] = ["--seconds", o.seconds, "--queries", o.queries, "--rounds", o.rounds]
        given += [x for d in _data_for(cell.tasks, self.data) for x in ("--data", d)]
        given += [x for t in cell.tasks for x in ("--task", t)]
        given += [x for s in o.scenarios for x in ("--scenario", s) if s != "Server" or o.slo]
        given += [x for p in self.paths for x in ("--bundle", p)]
        for flag, value in (("--split", o.split), ("--mix", o.mix), ("--arrivals", o.arrivals)):
            given += [flag, value] if value else []
        given += ["--slo", 1e3 * o.slo] if o.slo else []
        given += ["--closed-loop", o.callers] if o.callers else []
        given += ["--reference", self.file(self.reference)] if self._compares(cell) and self.reference else []
        given += ["--baseline", "uncut"] if o.uncut and cell.profile.precision in FLOATING else []
        flags = (("--official", o.official), ("--no-reuse", not o.reuse), ("--no-accuracy", not o.accuracy))
        return [str(x) for x in [*given, *(flag for flag, chosen in flags if chosen)]]

    def _compares(self, cell: Cell) -> bool:
        """There are labels of the reference, and this is another cell."""
        if self.reference is None or cell.name == self.reference.name or not self.options.accuracy:
            return False
        return (self.place / f"{self.reference.name}.files" / FILE).is_file()


def _data_for(tasks: Sequence[str], data: Sequence[str]) -> list[str]:
    """What is given for some tasks: without what names another."""
    return [d for d in data if not tasks or "=" not in d or Path(d).exists() or d.partition("=")[0] in tasks]
