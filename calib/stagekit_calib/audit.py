"""What a new task does to ranges that were taken without it: which frozen tensors saturate, and the mIoU it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stagekit.data.folder import Folder
from stagekit.graph import Graph
from stagekit.quant.formats import limits
from stagekit.quant.ranges import quantization_of
from stagekit.quant.record import Audit, Calibration, task_binding
from stagekit.quant.scheme import QuantScheme
from stagekit.quant.stages import quantise_stages, stored_formats
from stagekit_calib.accuracy import evaluate
from stagekit_calib.chain import Chain
from stagekit_calib.readers import Images
from stagekit_calib.run import Advance, calibrate


@dataclass(frozen=True, slots=True)
class Saturation:
    """Of one frozen tensor.

    Args:
        share: of the new task's values beyond the record's range.
        known_share: of the record's own values beyond it, which its method cut on purpose.
        reach: the new task's largest magnitude over the range's.
    """

    stage: str
    tensor: str
    share: float
    known_share: float
    reach: float


def saturation(
    record: Calibration, seen: Calibration, scheme: QuantScheme, stages: Sequence[tuple[str, Graph]]
) -> list[Saturation]:
    """Every tensor that the scheme makes integers of in the frozen stages, the worst first.

    Args:
        seen: statistics of the new task alone.
        stages: (name, graph) in order.
    """
    found = []
    for tensor, form in stored_formats(stages, record, scheme).items():
        statistics = seen.statistics.get(tensor)
        if statistics is None:  # of a stage behind the last that the task runs
            continue
        known = record.statistics[tensor]
        quantization = quantization_of(known, form, record.method)
        low, high = limits(form, quantization)
        half = quantization.scale[0] / 2  # beyond the last level by less, a value is rounded, not cut
        low, high = low - half, high + half
        reach = max(-statistics.minimum, statistics.maximum) / (max(-low, high) or 1.0)
        outside = statistics.share_outside(low, high)
        found.append(Saturation(*record.places[tensor], outside, known.share_outside(low, high), reach))
    return sorted(found, key=lambda s: (-s.share, -s.reach))


def audit(
    record: Calibration,
    chain: Chain,
    images: Images,
    scheme: QuantScheme,
    labelled: tuple[Folder, str] | None = None,
    advance: Advance = lambda done, total: None,
) -> tuple[Calibration, list[Saturation]]:
    """Runs a chain with one new task over a record; gives the record with the finding, and all tensors.

    Args:
        labelled: a data set and the split on which to compare int8 with float.
    """
    record.check_stages(chain.manifest, Path(chain.manifest.name))
    (task,) = chain.tasks.values()
    seen = calibrate(chain, images, record.method, advance=advance)
    tensors = saturation(record, seen, scheme, chain.stages)
    drop = None
    if labelled is not None:
        folder, split = labelled
        float_ = evaluate(chain, folder, folder.stems(split))[task.name]
        integers = chain.quantised(quantise_stages(chain.stages, record, scheme))
        drop = 100 * (float_ - evaluate(integers, folder, folder.stems(split))[task.name])
    finding = Audit(
        task=task_binding(task),
        images=seen.data[0].images,
        worst=tensors[0].share,
        tensor="/".join((tensors[0].stage, tensors[0].tensor)),
        drop=drop,
    )
    others = tuple(a for a in record.audits if a.task.adapters != finding.task.adapters)
    return replace(record, audits=(*others, finding)), tensors
