"""``stagekit calibrate`` as a function: bundles and images by their paths, a record written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch
from os import PathLike
from pathlib import Path
from typing import Any

from stagekit.bundle import check_writable, plain_name
from stagekit.errors import UsageError
from stagekit.quant.record import Calibration, load, save
from stagekit.quant.stages import patterns_for
from stagekit_calib.chain import Chain, open_chain
from stagekit_calib.readers import Images, from_iterable, from_path
from stagekit_calib.run import Advance, extend
from stagekit_calib.run import calibrate as calibrate_chain
from stagekit_calib.sensitivity import with_kept


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
    keep_float: Sequence[str] = (),
    advance: Advance = lambda done, total: None,
) -> Calibration:
    """Ranges of the stages' tensors over images that run through them and the tasks' SPMs.

    Args:
        stages: the ``.stages`` folder.
        tasks: the ``.task`` folders that the record shall cover.
        data: a data set, a folder of images, or an iterable of uint8 (height, width, 3); with a transform, what
            :func:`stagekit_calib.readers.from_iterable` gives.
        output: the ``.calib`` folder to write.
        method: ``percentile`` by default, for transformers ``minmax``; see :mod:`stagekit.quant.ranges`.
        split: of a data set; ``train`` by default.
        limit: use this many images at most.
        equalise: evens out the weights of neighbouring convolutions first.
        extending: adds to the record in ``output``, which keeps its method.
        resume: goes on with an interrupted run over the same images.
        keep_float: patterns ``stage/node``, or ``node`` in any stage, of what computes in floats.
        advance: called with (images done, images in all or none).

    Raises:
        UsageError: options that contradict each other, or a pattern that no node has.
        BundleError: something that is not a bundle stands at ``output``.
        DatasetError, GraphError, BundleError: see :func:`stagekit_calib.run.calibrate`.
    """
    folder = Path(output)
    check_writable(folder, "calibration")
    if extending and not folder.exists():
        raise UsageError("there is no record to extend", where=folder, remedy="leave --extend out to make one")
    images = _images(data, split, limit)
    known = load(folder) if extending else None
    chain = open_chain(Path(stages), [Path(t) for t in tasks], equalised=known.equalised if known else equalise)
    _check_patterns(chain, keep_float)
    if known is not None:
        if method is not None:
            raise UsageError("an extended record keeps its method", where="--method")
        record = extend(known, chain, images, advance)
    else:
        name = plain_name(folder.name.removesuffix(".calib"))
        record = calibrate_chain(chain, images, method, checkpoint_of(folder), resume, advance, name)
    record = with_kept(record, keep_float)
    save(record, folder)
    return record


def checkpoint_of(record: Path) -> Path:
    """Where a run that writes ``record`` leaves what ``resume`` goes on from."""
    return record.with_name(f"{record.name}.partial")


def _check_patterns(chain: Chain, patterns: Sequence[str]) -> None:
    names = [(stage, str(node.name)) for stage, graph in chain.stages for node in graph.body]
    for pattern in patterns:
        if not any(fnmatch(name, kept) for stage, name in names for kept in patterns_for([pattern], stage)):
            what = f"no node of the stages matches {pattern!r}; they are called like {'/'.join(names[-1])}"
            raise UsageError(what, where="--keep-float", remedy="`--analyze` lists the products")


def _images(data: str | PathLike[str] | Iterable[Any], split: str | None, limit: int | None) -> Images:
    if isinstance(data, (str, PathLike)):
        return from_path(Path(data), split, limit)
    if split or limit:
        raise UsageError("split and limit are for data sets and folders; cut the iterable instead", where="data")
    return data if isinstance(data, Images) else from_iterable(data)
