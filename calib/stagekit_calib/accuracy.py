"""mIoU of a chain's tasks on labelled images, with the chain's graphs in ONNX Runtime."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from stagekit.data.folder import Folder
from stagekit.data.metrics import Confusion
from stagekit.errors import DatasetError
from stagekit_calib.chain import Chain, OrtGraph, execute


def evaluate(chain: Chain, folder: Folder, stems: Sequence[str]) -> dict[str, float]:
    """mIoU (0 to 1) by task, in the images' own size, of a chain that gives labels.

    Raises:
        DatasetError: a task has other classes than the data set.
    """
    for name, task in chain.tasks.items():
        if [c.name for c in task.classes] != list(folder.classes.names):
            what = f"its classes {', '.join(folder.classes.names)} are not those of the task {name!r}"
            raise DatasetError(what, where=folder.root, remedy="give the data set that the task was tuned on")
    graphs = {label: OrtGraph(graph) for label, graph in chain.graphs.items()}
    counts: Mapping[str, Confusion] = {name: Confusion(len(t.classes)) for name, t in chain.tasks.items()}
    for stem in stems:
        sample = folder.read(stem)
        key = hashlib.sha256(stem.encode()).hexdigest()
        results = execute(chain, sample.image, key, lambda call, inputs: graphs[call.label].run(inputs)[0])
        for name, (labels, placement) in results.items():
            counts[name].update(placement.labels_to_image(labels[0]), sample.mask)
    return {name: confusion.miou() for name, confusion in counts.items()}
