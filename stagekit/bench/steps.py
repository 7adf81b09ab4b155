"""Results while they come in: every step adds to them, and what fails midway is noted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stagekit.bench.accuracy import Labels
from stagekit.bench.options import Options
from stagekit.bench.results import Result
from stagekit.errors import StagekitError


@dataclass
class Measuring:
    """One deployment's results while they come in.

    Args:
        save: called with the results after every step.
        folder: for LoadGen's logs and pictures.
    """

    options: Options
    save: Callable[[Result], None]
    folder: Path
    progress: Callable[[str], None]
    result: Result
    labels: Labels = field(default_factory=dict)

    def add(self, **facts: Any) -> None:
        """Takes facts in and saves."""
        self.result = self.result.model_copy(update=facts)
        self.save(self.result)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What goes wrong inside is noted, and the rest goes on."""
        self.progress(f"{self.result.deployment.name}: {name}")
        try:
            yield
        except StagekitError as error:
            self.note(f"{name}: {error}")
        except Exception as error:  # whatever a vendor's runtime raises, what was measured is kept
            self.note(f"{name}: {type(error).__name__}: {error}")
        except KeyboardInterrupt:
            self.note(f"{name}: interrupted")
            raise

    def note(self, problem: str) -> None:
        """The results are partial, and why."""
        self.add(status="partial", problems=(*self.result.problems, problem))
