"""The calibration record, ``X.calib``: what was seen of a backbone's tensors, and of what it holds.

::

    X.calib/
      manifest.json      what it is bound to: stages, adapters, data, geometry, tools; the method; audits
      statistics.npz     one row a tensor: extremes, histogram, facts by channel

Tensors are named by their Merkle hash, so that a record fits a stage however its tensors are called, and no
other. Ranges are not stored: they follow from the histogram, the method and a target's number format.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from stagekit.bundle import Manifest, StagesManifest, TaskManifest, read_manifest, write_manifest, writing
from stagekit.bundle.manifest import Digest, Record
from stagekit.errors import BundleError
from stagekit.quant.statistics import BINS, Statistics
from stagekit.versions import tool_versions

STATISTICS = "statistics.npz"


class StageBinding(Record):
    """A stage that the record is for."""

    name: str
    fingerprint: Digest


class TaskBinding(Record):
    """A task that ran while statistics were taken; adapters are the fingerprints of its SPMs."""

    name: str
    adapters: tuple[Digest, ...]


class DataBinding(Record):
    """Images in the order in which they were shown; ``digest`` chains their hashes and geometry."""

    source: str
    images: int = Field(gt=0)
    digest: Digest


class Audit(Record):
    """What a task that the record does not cover does to the ranges of the frozen tensors.

    Attributes:
        worst: the largest share of a tensor's values that saturates.
        tensor: where.
        drop: mIoU lost to integers, in points; ``None`` without labels.
    """

    task: TaskBinding
    images: int
    worst: float
    tensor: str
    drop: float | None = None


class TensorEntry(Record):
    """Which tensor a row of ``statistics.npz`` is about; ``name`` is for people."""

    hash: Digest
    stage: str
    name: str
    channels: int


class CalibrationManifest(Manifest):
    """``X.calib``: see this module."""

    kind: Literal["calibration"] = "calibration"
    backbone: Digest
    stages: tuple[StageBinding, ...]
    tasks: tuple[TaskBinding, ...]
    data: tuple[DataBinding, ...]
    method: str
    keep_float: tuple[str, ...] = ()
    equalised: bool = False
    audits: tuple[Audit, ...] = ()
    tensors: tuple[TensorEntry, ...]
    statistics: Digest


@dataclass(frozen=True)
class Calibration:
    """A record in memory.

    Args:
        statistics: by tensor hash.
        places: (stage, tensor name) by tensor hash, for messages.
        method: e.g. ``percentile:99.99``; see :mod:`stagekit.quant.ranges`.
        keep_float: patterns ``stage/node`` of nodes that compute in floats.
    """

    name: str
    backbone: str
    stages: tuple[StageBinding, ...]
    tasks: tuple[TaskBinding, ...]
    data: tuple[DataBinding, ...]
    method: str
    statistics: Mapping[str, Statistics]
    places: Mapping[str, tuple[str, str]]
    keep_float: tuple[str, ...] = ()
    equalised: bool = False
    audits: tuple[Audit, ...] = ()
    tools: Mapping[str, str] = field(default_factory=dict)

    def check_stages(self, bundle: StagesManifest, where: Path) -> None:
        """The record must have been made on these very stages.

        Raises:
            BundleError: names the first stage that differs.
        """
        known = {s.name: s.fingerprint for s in self.stages}
        have = {s.name: s.fingerprint for s in bundle.stages}
        if known.keys() != have.keys():
            what = f"the record {self.name} is for stages {', '.join(known)}; these are {', '.join(have)}"
            raise BundleError(what, where=where, remedy=_AGAIN)
        for stage, fingerprint in have.items():
            if known[stage] != fingerprint:
                what = f"the record {self.name} was made on {stage} {known[stage][:16]}, this is {fingerprint[:16]}"
                raise BundleError(what, where=where, remedy=_AGAIN)

    def covers(self, task: TaskBinding) -> bool:
        """Whether these adapters ran while statistics were taken; one without SPMs changes no frozen tensor."""
        return not task.adapters or any(t.adapters == task.adapters for t in self.tasks)

    def audit_of(self, task: TaskBinding) -> Audit | None:
        """The audit of these adapters, if there was one since the record last changed."""
        return next((a for a in self.audits if a.task.adapters == task.adapters), None)

    def extended(self, later: Calibration) -> Calibration:
        """Both records as one; what was measured twice adds up. Audits end with the ranges they were made on.

        Raises:
            BundleError: they are for different stages.
        """
        if (self.stages, self.equalised) != (later.stages, later.equalised):
            raise BundleError("the two records are for different stages", where=self.name, remedy=_AGAIN)
        merged = dict(self.statistics)
        for tensor, statistics in later.statistics.items():
            merged[tensor] = merged[tensor].merge(statistics) if tensor in merged else statistics
        return replace(
            self,
            tasks=tuple(dict.fromkeys((*self.tasks, *later.tasks))),
            data=(*self.data, *later.data),
            statistics=merged,
            places={**self.places, **later.places},
            audits=(),
        )


_AGAIN = "calibrate these stages: `stagekit calibrate X.stages --data IMAGES -o X.calib`"


def task_binding(manifest: TaskManifest) -> TaskBinding:
    """A task by its adapters' fingerprints."""
    return TaskBinding(name=manifest.name, adapters=tuple(p.fingerprint for p in manifest.prompts))


def save(calibration: Calibration, folder: Path) -> CalibrationManifest:
    """Writes ``X.calib``, whole or not at all."""
    content = _packed(calibration.statistics)
    manifest = CalibrationManifest(
        name=calibration.name,
        tools=dict(calibration.tools) or tool_versions("stagekit", "onnxruntime", "numpy"),
        backbone=calibration.backbone,
        stages=calibration.stages,
        tasks=calibration.tasks,
        data=calibration.data,
        method=calibration.method,
        keep_float=calibration.keep_float,
        equalised=calibration.equalised,
        audits=calibration.audits,
        tensors=tuple(
            TensorEntry(
                hash=h, stage=calibration.places[h][0], name=calibration.places[h][1], channels=s.channel_mean.size
            )
            for h, s in calibration.statistics.items()
        ),
        statistics=hashlib.sha256(content).hexdigest(),
    )
    with writing(folder, "calibration") as fresh:
        (fresh / STATISTICS).write_bytes(content)
        write_manifest(fresh, manifest)
    return manifest


def load(folder: Path) -> Calibration:
    """Reads ``X.calib``.

    Raises:
        BundleError: missing, damaged, truncated, or of a schema that this version does not know.
    """
    manifest = read_manifest(folder, CalibrationManifest)
    path = folder / STATISTICS
    content = path.read_bytes() if path.is_file() else b""
    if hashlib.sha256(content).hexdigest() != manifest.statistics:
        found = f"it is damaged or cut short ({len(content)} bytes)" if content else "the file is missing"
        raise BundleError(found, where=path, remedy="calibrate again, or restore the file")
    return Calibration(
        manifest.name,
        manifest.backbone,
        manifest.stages,
        manifest.tasks,
        manifest.data,
        manifest.method,
        _unpacked(content, manifest.tensors, path),
        {t.hash: (t.stage, t.name) for t in manifest.tensors},
        manifest.keep_float,
        manifest.equalised,
        manifest.audits,
        manifest.tools,
    )


def _packed(statistics: Mapping[str, Statistics]) -> bytes:
    rows = list(statistics.values())
    stream = io.BytesIO()
    np.savez_compressed(
        stream,
        extremes=np.asarray([(s.minimum, s.maximum, s.average_minimum, s.average_maximum) for s in rows], np.float64),
        frames=np.asarray([s.frames for s in rows], np.int64),
        exponent=np.asarray([s.exponent for s in rows], np.int64),
        counts=np.asarray([s.counts for s in rows], np.int64),
        channel_mean=np.concatenate([s.channel_mean for s in rows]),
        channel_reach=np.concatenate([s.channel_reach for s in rows]),
    )
    return stream.getvalue()


def _unpacked(content: bytes, tensors: Sequence[TensorEntry], path: Path) -> dict[str, Statistics]:
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            rows = {name: file[name] for name in file.files}
        if rows["counts"].shape != (len(tensors), BINS):
            raise BundleError(f"expected {len(tensors)} histograms, found {rows['counts'].shape}", where=path)
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(f"it does not hold what a record holds: {error}", where=path) from error
    ends = np.cumsum([t.channels for t in tensors])[:-1]
    means, reaches = np.split(rows["channel_mean"], ends), np.split(rows["channel_reach"], ends)
    found: dict[str, Statistics] = {}
    for index, tensor in enumerate(tensors):
        low, high, average_low, average_high = (float(v) for v in rows["extremes"][index])
        facts = (int(rows["frames"][index]), int(rows["exponent"][index]), rows["counts"][index])
        found[tensor.hash] = Statistics(low, high, average_low, average_high, *facts, means[index], reaches[index])
    return found
