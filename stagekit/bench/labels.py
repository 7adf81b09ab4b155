"""Label maps beside results, so that other deployments' labels can be compared with them later."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stagekit.bench import results
from stagekit.bench.accuracy import Labels
from stagekit.errors import UsageError

FILE = "labels.npz"


def keep_labels(labels: Labels, folder: Path) -> None:
    """Writes label maps, uint8 (height, width) each, into the folder that belongs to the results."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"{task}/{stem}": pixels for task, maps in labels.items() for stem, pixels in maps.items()}
    np.savez_compressed(folder / FILE, **named)  # type: ignore[arg-type]  # its stub takes no keywords of arrays


def read_reference(path: Path) -> tuple[str, Labels]:
    """The deployment's name and the label maps that belong to a file of results.

    Raises:
        ResultError: the file is no file of results.
        UsageError: it has no label maps beside it.
    """
    name = results.read(path).deployment.name
    file = path.with_name(f"{path.stem}.files") / FILE
    labels: Labels = {}
    try:
        with np.load(file, allow_pickle=False) as found:
            for key in found.files:
                task, _, stem = key.partition("/")
                labels.setdefault(task, {})[stem] = found[key]
    except (OSError, ValueError) as error:
        raise UsageError(
            f"these results have no label maps: {error}",
            where=file,
            remedy="measure the reference on labelled pictures first",
        ) from error
    return name, labels
