"""What is known of tasks: how good their labels are, and what they cost in another form."""

from __future__ import annotations

from stagekit.bench.results.figures import Figure
from stagekit.bundle.manifest import Record


class Accuracy(Record):
    """One task on labelled images; shares from 0 to 1.

    Attributes:
        per_class: by class and metric; ``None`` where the class does not occur.
        agreement: share of pixels with the reference deployment's label.
    """

    task: str
    data: str
    split: str | None
    images: int
    miou: Figure
    dice: Figure
    accuracy: Figure
    per_class: dict[str, dict[str, float | None]]
    agreement: Figure | None = None
    reference: str | None = None


class Picture(Record):
    """Files of one picture, beside the results: image, labels and (where known) truth."""

    task: str
    stem: str
    image: str
    labels: str
    truth: str | None = None


class BaselineRow(Record):
    """A task through its stages against the same task as one graph, in alternation; seconds each."""

    task: str
    staged: tuple[float, ...]
    uncut: tuple[float, ...]
    ratio: Figure
    agreement: Figure
    uncut_bytes: int


class ScalingRow(Record):
    """So many tasks on one backbone against as many whole models."""

    tasks: int
    shared_seconds: Figure
    separate_seconds: Figure
    shared_bytes: Figure
    separate_bytes: Figure
