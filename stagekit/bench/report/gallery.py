"""Sample pictures for a page: the image, the truth, each deployment's labels, and where they disagree."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from stagekit.bench.results import Picture, Result
from stagekit.data.images import Pixels, read_image, read_mask
from stagekit.data.overlay import overlay
from stagekit.errors import StagekitError

DIFFERENT = np.array([227, 73, 72], np.uint8)
"""The colour of pixels that two deployments label differently."""


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture with its title, as a data URI."""

    title: str
    uri: str


@dataclass(frozen=True, slots=True)
class Row:
    """The panels of one image."""

    stem: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Gallery:
    """The rows of one task, and its classes with their colours."""

    task: str
    classes: tuple[tuple[str, tuple[int, int, int]], ...]
    rows: tuple[Row, ...]


def galleries(results: Sequence[tuple[Result, Path]]) -> tuple[list[Gallery], list[str]]:
    """One gallery a task that has pictures, and what could not be shown.

    Args:
        results: each with the folder that its pictures' paths start from.
    """
    made: list[Gallery] = []
    missing: list[str] = []
    for task in dict.fromkeys(p.task for r, _ in results for p in r.pictures):
        classes = next(r.deployment.tasks[task] for r, _ in results if task in r.deployment.tasks)
        palette = tuple(color for _, color in classes)
        rows = []
        for stem in dict.fromkeys(p.stem for r, _ in results for p in r.pictures if p.task == task):
            found = [
                (r.deployment.name, root, p)
                for r, root in results
                for p in r.pictures
                if (p.task, p.stem) == (task, stem)
            ]
            try:
                rows.append(Row(stem, tuple(_panels(found, palette))))
            except (StagekitError, OSError) as error:
                missing.append(f"the picture {stem} of {task} cannot be shown: {error}")
        if rows:
            made.append(Gallery(task, classes, tuple(rows)))
    return made, missing


def disagreement(image: Pixels, labels: Sequence[Pixels]) -> tuple[Pixels, float]:
    """The image in pale grey, red where not all labels are equal; and the share of such pixels."""
    differs = np.zeros(labels[0].shape, np.bool_)
    for other in labels[1:]:
        differs |= labels[0] != other
    pale: Pixels = (160 + image.mean(axis=2, keepdims=True) * (80 / 255)).astype(np.uint8).repeat(3, axis=2)
    pale[differs] = DIFFERENT
    return pale, float(differs.mean())


def _panels(found: Sequence[tuple[str, Path, Picture]], palette: tuple[tuple[int, int, int], ...]) -> list[Panel]:
    _, root, first = found[0]
    image = read_image(root / first.image)
    panels = [Panel("picture", _uri(image))]
    if first.truth:
        panels.append(Panel("truth", _uri(overlay(image, read_mask(root / first.truth, palette), palette))))
    labels = [read_mask(root / picture.labels, palette) for _, root, picture in found]
    panels += [
        Panel(name, _uri(overlay(image, mask, palette))) for (name, _, _), mask in zip(found, labels, strict=True)
    ]
    if len(labels) > 1:
        pale, share = disagreement(image, labels)
        panels.append(Panel(f"differ: {100 * share:.2g} %", _uri(pale)))
    return panels


def _uri(pixels: Pixels) -> str:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
