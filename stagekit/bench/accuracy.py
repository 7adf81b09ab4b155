"""Accuracy of a deployment's tasks, through the same sessions and scenarios that are timed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from stagekit.bench.mix import Sample
from stagekit.bench.pictures import Labelled
from stagekit.bench.results import Accuracy, Figure, Picture
from stagekit.bench.run import Observe, Run
from stagekit.bench.system import Answers, Array, SessionSystem, System
from stagekit.data.images import Pixels, write_image, write_mask
from stagekit.data.metrics import Confusion
from stagekit.errors import UsageError
from stagekit.session import Session

Labels = dict[str, dict[str, Pixels]]
"""Label maps by task and picture."""

Drive = Callable[[System, Observe], Run]
"""Asks a system for each of its samples once, e.g. LoadGen in accuracy mode."""

SHOWN = 4
"""Pictures of a task that are kept for reports."""


def score_task(
    session: Session, task: str, data: Labelled, drive: Drive, reference: tuple[str, Labels] | None = None
) -> tuple[Accuracy, dict[str, Pixels]]:
    """A task on all its labelled pictures; the accuracy, and the label maps by picture.

    Args:
        reference: a deployment's name and label maps to compare with.

    Raises:
        UsageError: the deployment gives logits.
        DatasetError, ImageError: a picture or its mask is missing or unreadable.
        EngineError: the deployment failed.
    """
    if session.tasks[task].output != "labels":
        raise UsageError("accuracy is measured on labels", where=task, remedy="compile without --outputs logits")
    stems = data.stems
    truth = [data.folder.read(stem) for stem in stems]
    labels: dict[str, Pixels] = {}
    samples = [Sample(((index, (task,)),)) for index in range(len(stems))]

    def observe(index: int, answers: Answers) -> None:
        labels[stems[index]] = answers[0][task]

    run = drive(SessionSystem(session, [s.image for s in truth], samples), observe)
    if run.error is not None:
        raise run.error
    confusion = Confusion(len(data.folder.classes.names))
    for sample in truth:
        confusion.update(labels[sample.stem], sample.mask)
    made = _accuracy(task, data, confusion)
    theirs = reference[1].get(task, {}) if reference else {}
    if reference and all(stem in theirs for stem in stems):
        same = agreement(labels, theirs)
        made = made.model_copy(
            update={"agreement": Figure(value=same, unit=""), "reference": reference[0]},
        )
    return made, labels


def agreement(labels: Mapping[str, Array], others: Mapping[str, Array]) -> float:
    """The share of pixels that have the same label in both."""
    same = sum(int(np.count_nonzero(mine == others[stem])) for stem, mine in labels.items())
    return same / sum(mine.size for mine in labels.values())


def keep_pictures(task: str, data: Labelled, labels: Mapping[str, Pixels], folder: Path) -> tuple[Picture, ...]:
    """Writes image, truth and labels of the first few pictures; paths are relative to ``folder``'s parent."""
    palette = data.folder.classes.palette
    kept: list[Picture] = []
    for stem in data.stems[:SHOWN]:
        sample = data.folder.read(stem)
        place = folder / task
        place.mkdir(parents=True, exist_ok=True)
        files = {kind: place / f"{stem}.{kind}.png" for kind in ("image", "labels", "truth")}
        write_image(files["image"], sample.image)
        write_mask(files["labels"], labels[stem], palette)
        write_mask(files["truth"], sample.mask, palette)
        named = {kind: path.relative_to(folder.parent).as_posix() for kind, path in files.items()}
        kept.append(Picture(task=task, stem=stem, **named))
    return tuple(kept)


def _accuracy(task: str, data: Labelled, confusion: Confusion) -> Accuracy:
    names = data.folder.classes.names
    iou, dice = confusion.iou(), confusion.dice()
    known = [float(d) for d in dice if not math.isnan(d)]
    per_class = {
        name: {"iou": _known(i), "dice": _known(d)}
        for name, i, d in zip(names, iou.tolist(), dice.tolist(), strict=True)
    }
    return Accuracy(
        task=task,
        data=data.name,
        split=data.split,
        images=len(data.stems),
        miou=Figure(value=confusion.miou(), unit=""),
        dice=Figure(value=sum(known) / max(1, len(known)), unit=""),
        accuracy=Figure(value=confusion.accuracy(), unit=""),
        per_class=per_class,
    )


def _known(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
