"""A calibration run: images through stem, SPMs and stages, statistics into a record."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from stagekit.data.images import Pixels
from stagekit.errors import BundleError, DatasetError
from stagekit.quant.ranges import default_method, parse_method
from stagekit.quant.record import Calibration, DataBinding, StageBinding, load, save, task_binding
from stagekit_calib.chain import Chain, execute
from stagekit_calib.observers import Observer
from stagekit_calib.readers import Images

CHECKPOINT_EVERY: Final = 25
"""Images between two checkpoints of a run that can be resumed."""

Advance = Callable[[int, int | None], object]
"""Called with (images done, images in all or none)."""


def calibrate(
    chain: Chain,
    images: Images,
    method: str | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    advance: Advance = lambda done, total: None,
    name: str = "",
) -> Calibration:
    """Statistics of a chain's tensors over images. The same images in the same order give the same record.

    Args:
        chain: of float graphs; its tasks are those that the record covers.
        method: how ranges will follow from the statistics, by default what suits the stages; see
            :mod:`stagekit.quant.ranges`.
        checkpoint: a folder that an interrupted run leaves behind and ``resume`` goes on from.

    Raises:
        DatasetError: no image, all images equal, or images without any structure.
        GraphError: a tensor is not finite.
        BundleError: the checkpoint is of other stages, tasks or images.
    """
    method = method or default_method(graph for _, graph in chain.stages)
    parse_method(method)
    observer, whole = Observer(chain), replace(chain, programs=chain.covering)
    before = _resumed(checkpoint, chain, method) if resume and checkpoint else None
    if before is not None:
        observer.statistics |= before.statistics
    skip = before.data[0].images if before else 0
    digest, variety, done = _start(chain), _Variety(), 0

    def record() -> Calibration:
        return Calibration(
            name or chain.manifest.name,
            chain.manifest.backbone.id,
            tuple(StageBinding(name=s.name, fingerprint=s.fingerprint) for s in chain.manifest.stages),
            tuple(task_binding(t) for t in chain.tasks.values()),
            (DataBinding(source=images.source, images=done, digest=digest),),
            method,
            observer.statistics,
            observer.places,
            equalised=chain.equalised,
        )

    for label, image in _some(images):
        content = hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).data).hexdigest()
        variety.add(content, image)
        digest = hashlib.sha256((digest + content).encode()).hexdigest()
        done += 1
        if done <= skip:
            if done == skip and before is not None and digest != before.data[0].digest:
                what = f"the first {skip} images are not those that the interrupted run saw"
                raise BundleError(what, where=checkpoint, remedy="start again without --resume")
            continue
        observer.image = label
        execute(whole, image, content, observer.run)
        advance(done, images.total)
        if checkpoint is not None and done % CHECKPOINT_EVERY == 0:
            save(record(), checkpoint)
    variety.check(images.source)
    result = record()
    if checkpoint is not None and checkpoint.exists():
        shutil.rmtree(checkpoint)
    return result


def extend(
    record: Calibration, chain: Chain, images: Images, advance: Advance = lambda done, total: None
) -> Calibration:
    """A record with more images, or more tasks, added to it; see :func:`calibrate`."""
    record.check_stages(chain.manifest, Path(chain.manifest.name))
    return record.extended(replace(calibrate(chain, images, record.method, advance=advance), name=record.name))


class _Variety:
    """Whether images differ at all; ranges from equal or flat ones hold for nothing else."""

    def __init__(self) -> None:
        self._digests: set[str] = set()
        self._images = 0
        self._flat = 0

    def add(self, digest: str, image: Pixels) -> None:
        self._images += 1
        self._flat += bool(image.min() == image.max())
        if len(self._digests) < 2:
            self._digests.add(digest)

    def check(self, source: str) -> None:
        remedy = "use some tens of images of the kind that the tasks will see"
        if self._flat == self._images:
            what = f"each of the {self._images} images is of a single colour; no range can be learnt from them"
            raise DatasetError(what, where=source, remedy=remedy)
        if self._images > 1 and len(self._digests) == 1:
            raise DatasetError(f"all {self._images} images are equal", where=source, remedy=remedy)


def _some(images: Images) -> Iterator[tuple[str, Pixels]]:
    count = 0
    for count, item in enumerate(images, 1):  # noqa: B007  # its last value tells whether there was one
        yield item
    if count == 0:
        raise DatasetError("expected images, found none", where=images.source, remedy="give --data with images")


def _start(chain: Chain) -> str:
    """The digest before the first image: how images become frames."""
    keys = sorted({chain.geometry(p.task).key() for p in chain.programs})
    return hashlib.sha256(repr(keys).encode()).hexdigest()


def _resumed(checkpoint: Path, chain: Chain, method: str) -> Calibration | None:
    if not checkpoint.exists():
        return None
    before = load(checkpoint)
    before.check_stages(chain.manifest, checkpoint)
    if before.tasks != tuple(task_binding(t) for t in chain.tasks.values()) or before.method != method:
        what = "the interrupted run had other tasks or another method"
        raise BundleError(what, where=checkpoint, remedy="start again without --resume")
    return before
