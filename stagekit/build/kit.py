"""For engines that are built elsewhere: everything that a target's own tools need there, in one folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from stagekit import targets
from stagekit.build.compile import resolve_profile
from stagekit.build.deploy import compile_bundles
from stagekit.build.engines import Builder, WantedEngine
from stagekit.build.place import Output
from stagekit.errors import UsageError
from stagekit.quant.record import load as load_record
from stagekit.store import EngineKey, Store, Stored
from stagekit.target import Availability, EngineBlob, Profile, Progress, Target, silent


@runtime_checkable
class WritesKits(Protocol):
    """A target that can hand its work to a machine without stagekit."""

    def write_kit(self, folder: Path, wanted: Sequence[WantedEngine], profile: Profile, progress: Progress) -> None:
        """Writes all that building needs into a folder, and how to bring the engines back.

        Raises:
            CompileError: the target could not build one of the graphs.
        """


@dataclass(frozen=True)
class Collector(Builder):
    """Takes down what a compilation would build."""

    runs_here: ClassVar[bool] = False
    wanted: list[WantedEngine] = field(default_factory=list)

    def _made(self, wanted: WantedEngine, key: EngineKey) -> Stored:
        self.wanted.append(wanted)
        return Stored(EngineBlob(self.store.root, (), wanted.inputs, wanted.outputs), False, 0.0, 0)


class _Elsewhere:
    """A target as it is on another machine: nothing can be run and so measured here."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def probe(self) -> Availability:
        return replace(self._target.probe(), run=False)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._target, name)


def emit_kit(
    bundles: Sequence[str | PathLike[str]],
    folder: str | PathLike[str],
    *,
    target: str | None = None,
    profile: str | None = None,
    outputs: Output = "labels",
    calibration: str | PathLike[str] | None = None,
    progress: Progress = silent,
) -> list[str]:
    """Writes a kit for the engines that :func:`stagekit.build.compile.compile` would make; returns their names.

    The target's own software need not be installed.

    Raises:
        UsageError: the target writes no kits, or the folder holds something.
        BundleError, CompileError, VerificationFailed: as when compiling.
    """
    chosen = resolve_profile(target, profile)
    maker = targets.get(chosen.target)
    if not isinstance(maker, WritesKits):
        raise UsageError(f"the target {maker.name} writes no kits", where="--emit-kit", remedy="compile where it runs")
    destination = Path(folder)
    if destination.exists() and any(destination.iterdir()):
        raise UsageError("expected an empty or new folder", where=destination)
    paths = [Path(b) for b in bundles]
    elsewhere: Any = _Elsewhere(maker)
    collector = Collector(elsewhere, chosen, Store(destination), progress)
    record = load_record(Path(calibration)) if calibration else None
    compile_bundles(paths[0], paths[1:], collector, None, outputs, record)
    maker.write_kit(destination, collector.wanted, chosen, progress)
    return [engine.name for engine in collector.wanted]
