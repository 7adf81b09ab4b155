"""``stagekit calibrate`` as a function: bundles and images by their paths, a record written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

from stagekit.errors import UsageError
from stagekit.quant.record import Calibration, load, save
from stagekit_calib.chain import open_chain
from stagekit_calib.readers import Images, from_iterable, from_path
from stagekit_calib.run import Advance, extend
from stagekit_calib.run import calibrate as calibrate_chain

DEFAULT_METHOD = "percentile"


def calibrate(
    stages: str | PathLike[str],
    tasks: Sequence[str | PathLike[str]] = (),
    *,
    data: str | PathLike[str] | Iterable[Any],
    output: str | PathLike[str],
    method: str | None = None,
    split: str | None = None,
    limit: int | None = None,
    equalise: bool = False,
    extending: bool = False,
    resume: bool = False,
    advance: Advance = lambda done, total: None,
) -> Calibration:
    """Ranges of the stages' tensors over images that run through them and the tasks' SPMs.

    Args:
        stages: the ``.stages`` folder.
        tasks: the ``.task`` folders that the record shall cover.
        data: a data set, a folder of images, or an iterable of uint8 (height, width, 3); with a transform, what
            :func:`stagekit_calib.readers.from_iterable` gives.
        output: the ``.calib`` folder to write.
        method: ``percentile`` by default; see :mod:`stagekit.quant.ranges`.
        split: of a data set; ``train`` by default.
        limit: use this many images at most.
        equalise: evens out the weights of neighbouring convolutions first.
        extending: adds to the record in ``output``, which keeps its method.
        resume: goes on with an interrupted run over the same images.
        advance: called with (images done, images in all or none).

    Raises:
        UsageError: options that contradict each other.
        DatasetError, GraphError, BundleError: see :func:`stagekit_calib.run.calibrate`.
    """
    folder = Path(output)
    images = _images(data, split, limit)
    known = load(folder) if extending else None
    chain = open_chain(Path(stages), [Path(t) for t in tasks], equalised=known.equalised if known else equalise)
    if known is not None:
        if method is not None:
            raise UsageError("an extended record keeps its method", where="--method")
        record = extend(known, chain, images, advance)
    else:
        checkpoint = folder.with_name(f"{folder.name}.partial")
        name = folder.name.removesuffix(".calib")
        record = calibrate_chain(chain, images, method or DEFAULT_METHOD, checkpoint, resume, advance, name)
    save(record, folder)
    return record


def _images(data: str | PathLike[str] | Iterable[Any], split: str | None, limit: int | None) -> Images:
    if isinstance(data, (str, PathLike)):
        return from_path(Path(data), split, limit)
    if split or limit:
        raise UsageError("split and limit are for data sets and folders; cut the iterable instead", where="data")
    return data if isinstance(data, Images) else from_iterable(data)
