"""What is measured on: pictures in memory, and for each task the labelled ones, if there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stagekit.bundle import DeployedTask
from stagekit.data.folder import Folder
from stagekit.data.images import Pixels, list_images, read_image
from stagekit.errors import DatasetError, UsageError, nearest

MOST = 64
"""Pictures held in memory for timing."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """A task's pictures with their truth."""

    folder: Folder
    split: str | None

    @property
    def stems(self) -> tuple[str, ...]:
        return self.folder.stems(self.split)

    @property
    def name(self) -> str:
        return self.folder.root.name


@dataclass(frozen=True, slots=True)
class Pictures:
    """Args:
    stems, images: for timing; uint8 (height, width, 3) each.
    labelled: by task.
    """

    stems: tuple[str, ...]
    images: tuple[Pixels, ...]
    labelled: Mapping[str, Labelled]


def find_pictures(
    given: Sequence[str], tasks: Sequence[DeployedTask], split: str | None = None, most: int = MOST
) -> Pictures:
    """Pictures from ``PATH`` or ``TASK=PATH`` as a user gives them.

    A path is a data set's folder (:mod:`stagekit.data.folder`), which serves the tasks of its classes; a folder
    of such folders, each named for a task; or images without labels, for timing alone.

    Args:
        split: of the labelled pictures; ``test``, else ``val``, else all by default.

    Raises:
        UsageError: nothing is given, a task is unknown, or the classes are not the task's.
        DatasetError, ImageError: there is no picture, or one cannot be read.
    """
    if not given:
        raise UsageError("give pictures to measure on", where="--data")
    known = {task.name: task for task in tasks}
    labelled: dict[str, Labelled] = {}
    plain: list[Path] = []
    for text in given:
        name, equals, rest = text.partition("=")
        if equals and not Path(text).exists():
            if name not in known:
                raise UsageError(f"no task {name!r} is deployed" + nearest(name, known), where="--data")
            labelled[name] = _labelled(Path(rest), known[name], split)
        else:
            found = _found(Path(text), tasks, split)
            labelled.update(found)
            plain += [] if found else [Path(text)]
    if labelled:
        chosen = next(iter(labelled.values()))
        stems = chosen.stems[:most]
        paths = [chosen.folder.images.get(s, chosen.folder.root / "images" / s) for s in stems]
    else:
        paths = list_images([_images(path) for path in plain])[:most]
        stems = tuple(path.stem for path in paths)
    if not paths:
        raise DatasetError("expected pictures, found none", where=given[0], remedy="give a folder with images")
    return Pictures(tuple(stems), tuple(map(read_image, paths)), labelled)


def _found(path: Path, tasks: Sequence[DeployedTask], split: str | None) -> dict[str, Labelled]:
    """The tasks that a path holds labels for."""
    if (path / "classes.json").is_file():
        folder = Folder.open(path)
        fits = [t for t in tasks if [c.name for c in t.classes] == list(folder.classes.names)]
        if not fits:
            wanted = "; ".join(f"{t.name}: {', '.join(c.name for c in t.classes)}" for t in tasks)
            raise UsageError(
                f"its classes are those of no task ({wanted})", where=path, remedy="give its images/ for timing alone"
            )
        return {t.name: _labelled(path, t, split) for t in fits}
    there = [t for t in tasks if (path / t.name / "classes.json").is_file()]
    return {t.name: _labelled(path / t.name, t, split) for t in there}


def _labelled(path: Path, task: DeployedTask, split: str | None) -> Labelled:
    folder = Folder.open(path)
    names, wanted = list(folder.classes.names), [c.name for c in task.classes]
    if names != wanted:
        raise UsageError(f"its classes are {names}, the task {task.name!r} has {wanted}", where=path)
    if split is None:
        split = next((s for s in ("test", "val") if s in folder.splits), None)
    made = Labelled(folder, split)
    if not made.stems:
        raise DatasetError("expected images, found none", where=path)
    return made


def _images(path: Path) -> Path:
    return path / "images" if (path / "images").is_dir() else path
