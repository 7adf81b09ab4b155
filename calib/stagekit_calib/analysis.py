"""What int8 costs a backbone's tasks, layer by layer, and what to keep in floats: ``calibrate --analyze``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stagekit.data.folder import Folder
from stagekit.quant.record import Calibration
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages
from stagekit.target import Progress, silent
from stagekit_calib.accuracy import evaluate
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import Images
from stagekit_calib.sensitivity import (
    LayerDamage,
    TensorDamage,
    Trial,
    rank_layers,
    rank_tensors,
    smallest_float_set,
    with_kept,
)


@dataclass(frozen=True)
class Analysis:
    """What was found.

    Args:
        record: the record with the nodes that stay in floats.
        layers, tensors: the most damaging first.
        trials: in the order in which they were made.
        limit: points of mIoU that int8 may cost each task.
    """

    record: Calibration
    layers: Sequence[LayerDamage]
    tensors: Sequence[TensorDamage]
    trials: Sequence[Trial]
    limit: float


def analyse(
    stages: Path,
    tasks: Sequence[Path],
    record: Calibration,
    images: Images,
    labelled: tuple[Folder, str],
    scheme: QuantScheme,
    limit: float = 0.5,
    tell: Progress = silent,
) -> Analysis:
    """Ranks layers and tensors, and keeps the fewest layers in floats that hold every task's drop within the limit.

    Args:
        images: unlabelled ones will do; the first few rank the layers.
        labelled: a data set and the split on which to compare int8 with float.

    Raises:
        DatasetError: a task has other classes than the data set.
    """
    folder, split = labelled
    stems = folder.stems(split)
    chain = open_chain(stages, tasks, equalised=record.equalised)
    logits = open_chain(stages, tasks, "logits", record.equalised)
    tell("mIoU in floats")
    expected = evaluate(chain, folder, stems)

    def drop_of(kept: tuple[str, ...]) -> float:
        integers = chain.quantised(quantise_stages(chain.stages, with_kept(record, kept), scheme))
        return max(100 * (expected[task] - miou) for task, miou in evaluate(integers, folder, stems).items())

    layers = rank_layers(logits, record, scheme, images, tell=tell)
    kept, trials = smallest_float_set(layers, drop_of, limit, tell)
    return Analysis(with_kept(record, kept), layers, rank_tensors(chain, record, scheme), trials, limit)
