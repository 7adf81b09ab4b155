"""The user's handle on a deployment: opened engines, a scheduler and tasks.

::

    with stagekit.Session("lite0.deploy") as session:
        labels = session.run(image, tasks=["landcover"])["landcover"]
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from stagekit import target as targets
from stagekit.bundle import DeployedTask, DeployManifest, read_manifest
from stagekit.data.geometry import Geometry
from stagekit.errors import BundleError, TargetUnavailable, UsageError, nearest
from stagekit.runtime.program import Program, task_program
from stagekit.runtime.scheduler import CallStatistics, Scheduler
from stagekit.store import load_entry
from stagekit.target import Engine, HostBuffer

Array = np.ndarray[Any, Any]


class Session:
    """Opens a deployment; runs images through any of its tasks.

    Only the engines that the chosen tasks need are loaded.

    Args:
        deployment: a ``.deploy`` folder.
        tasks: names to open; all by default.

    Raises:
        BundleError: the folder is no deployment, or damaged.
        TargetUnavailable: its target cannot run here.
        EngineError: an engine is damaged or was built for another toolchain or device.
    """

    def __init__(self, deployment: str | Path, tasks: Sequence[str] | None = None) -> None:
        self.path = Path(deployment)
        self.manifest = read_manifest(self.path, DeployManifest)
        self.tasks: Mapping[str, DeployedTask] = {t.name: t for t in self._chosen(tasks)}
        self._programs = {n: task_program(t, self.manifest.stages) for n, t in self.tasks.items()}
        self._engines: dict[str, Engine] = {}
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        self._scheduler = Scheduler({digest: engine.lane() for digest, engine in self._engines.items()})

    @property
    def statistics(self) -> CallStatistics:
        """Calls made and shared since the session was opened."""
        return self._scheduler.statistics

    def geometry(self, task: str) -> Geometry:
        """How this task maps an image to a frame."""
        frame = self.manifest.frame
        return Geometry(frame.height, frame.width, self.tasks[task].resize, frame.fill)

    def run(self, image: Array, tasks: Sequence[str] | None = None) -> dict[str, Array]:
        """Label maps (or logits) of one image, by task.

        Args:
            image: uint8 (height, width, 3) RGB, of any size.
            tasks: names; all that the session has open by default.

        Returns:
            Labels as uint8 (height, width) in the image's own size; of a deployment compiled for logits,
            float32 (classes, height, width).

        Raises:
            UsageError: the image has another form, or a task is not open.
            EngineError: an engine call failed.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UsageError(f"expected a uint8 image (height, width, 3), got {image.dtype} {image.shape}")
        names = list(self.tasks) if tasks is None else list(tasks)
        for name in names:
            if name not in self.tasks:
                raise UsageError(f"no task {name!r} is open" + nearest(name, list(self.tasks)), where=self.path)
        content = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).data).hexdigest()
        results: dict[str, Array] = {}
        by_geometry: dict[Geometry, list[str]] = {}
        for name in names:
            by_geometry.setdefault(self.geometry(name), []).append(name)
        for geometry, group in by_geometry.items():
            pixels, placement = geometry.apply(image)
            frame = HostBuffer(self.manifest.frame.spec.bind(batch=1), np.ascontiguousarray(pixels)[None])
            programs: list[Program] = [self._programs[name] for name in group]
            for name, buffer in self._scheduler.run(frame, f"{content}:{geometry.key()}", programs).items():
                value = buffer.to_host()[0]
                if self.tasks[name].output == "labels":
                    results[name] = placement.labels_to_image(value)
                else:
                    results[name] = placement.logits_to_image(value)
        return {name: results[name] for name in names}

    def close(self) -> None:
        """Closes all engines; further runs fail."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _chosen(self, names: Sequence[str] | None) -> list[DeployedTask]:
        known = {t.name: t for t in self.manifest.tasks}
        if not known:
            raise BundleError(
                "this deployment has no task",
                where=self.path,
                remedy=f"stagekit compile --into {self.path} NAME.task",
            )
        for name in names or ():
            if name not in known:
                raise UsageError(f"no task is called {name!r}" + nearest(name, list(known)), where=self.path)
        return [known[n] for n in dict.fromkeys(names)] if names else list(known.values())

    def _open(self) -> None:
        manifest = self.manifest
        target = targets.get(manifest.target)
        available = target.probe()
        if not available.run:
            raise TargetUnavailable(available.reason, where=manifest.target, remedy=available.remedy)
        profile = targets.parse_profile(manifest.profile, str(manifest.profile.get("name", "")), where=str(self.path))
        for program in self._programs.values():
            for call in program.calls:
                if call.engine not in self._engines:
                    blob = load_entry(self.path / "engines" / call.engine, call.engine)
                    self._engines[call.engine] = target.load(blob, profile)
