"""From a deployment folder to open engines: which target runs which, opened when a task first needs it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stagekit import targets
from stagekit.bundle import DeployedTask, DeployManifest, read_manifest
from stagekit.errors import BundleError, TargetUnavailable, UsageError, nearest
from stagekit.runtime.program import Program, needs, task_program
from stagekit.store import load_entry
from stagekit.target import Engine, Profile, Target

BOTH = 2
"""Calls in flight on a device whose target does not say: one computes while the other's data move."""


@dataclass(frozen=True, slots=True)
class Place:
    """A device of a deployment.

    Args:
        name: ``openvino CPU``; the row in a trace.
        in_flight: calls worth having under way at once.
        ordered: see :class:`stagekit.target.Target`.
    """

    name: str
    target: Target
    profile: Profile
    in_flight: int
    ordered: bool

    @classmethod
    def of(cls, target: Target, profile: Profile) -> Place:
        """Where a target runs what was built with a profile."""
        says, ordered = getattr(target, "in_flight", None), getattr(target, "ordered", None)
        return cls(
            f"{target.name} {profile.device}",
            target,
            profile,
            BOTH if says is None else says(profile),
            ordered is not None and ordered(profile),
        )


class Deployment:
    """A ``.deploy`` folder as it is on disk now, and the places where its engines run.

    Raises:
        BundleError: the folder is no deployment, or damaged.
        TargetUnavailable: a target cannot run here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path, DeployManifest)
        self._place = _place(self.manifest.target, self.manifest.profile, path)
        second = self.manifest.adapters
        self._adapters = self._place if second is None else _place(second.target, second.profile, path)
        if second is not None and self._adapters.name == self._place.name:
            self._adapters = replace(self._adapters, name=f"{self._place.name} (adapters)")
        self._own = self._adapter_engines()

    @property
    def places(self) -> tuple[Place, ...]:
        """All devices that it needs."""
        return (self._place,) if self._adapters is self._place else (self._place, self._adapters)

    def reread(self) -> None:
        """Takes in tasks that were compiled into the folder since."""
        self.manifest = read_manifest(self.path, DeployManifest)
        self._own = self._adapter_engines()

    def _adapter_engines(self) -> frozenset[str]:
        return frozenset(d for t in self.manifest.tasks for d in (t.head, *(p.engine for p in t.prompts)))

    def tasks(self, names: Sequence[str] | None = None) -> list[DeployedTask]:
        """Tasks by name, each once; all where no names are given.

        Raises:
            BundleError: the deployment has none.
            UsageError: it has none of that name; names the nearest.
        """
        known = {t.name: t for t in self.manifest.tasks}
        if not known:
            remedy = f"stagekit compile --into {self.path} NAME.task"
            raise BundleError("this deployment has no task", where=self.path, remedy=remedy)
        for name in names or ():
            if name not in known:
                raise UsageError(f"no task is called {name!r}" + nearest(name, list(known)), where=self.path)
        return [known[n] for n in dict.fromkeys(names)] if names else list(known.values())

    def program(self, task: DeployedTask, together: Iterable[DeployedTask] = ()) -> Program:
        """The calls of a task.

        Args:
            together: the tasks that it is to share calls with: stages are fused where none of them needs what
                lies between.
        """
        needed = needs(task).union(*map(needs, together))
        names = [s.name for s in self.manifest.stages]
        ends = [s.boundary.name for s in self.manifest.stages]
        fused = {
            run.first: run
            for run in self.manifest.fused
            if needed.isdisjoint(ends[names.index(run.first) : names.index(run.last)])
        }
        return task_program(task, self.manifest.stages, fused)

    def place_of(self, digest: str) -> Place:
        """Where an engine runs."""
        return self._adapters if digest in self._own else self._place

    def open(self, digest: str) -> Engine:
        """Loads an engine.

        Raises:
            EngineError: it is damaged or was built for another toolchain or device.
        """
        place = self.place_of(digest)
        return place.target.load(load_entry(self.path / "engines" / digest, digest), place.profile)


def _place(target_name: str, profile: dict[str, object], path: Path) -> Place:
    target = targets.get(target_name)
    available = target.probe()
    if not available.run:
        raise TargetUnavailable(available.reason, where=target_name, remedy=available.remedy)
    parsed = targets.parse_profile(profile, str(profile.get("name", "")), where=str(path))
    return Place.of(target, parsed)
