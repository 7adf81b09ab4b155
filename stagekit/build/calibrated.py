"""What a calibration record changes in a build: boundaries become integers, and tasks must fit the ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from stagekit.bundle import Boundary, GraphEntry, TaskManifest
from stagekit.errors import UsageError, VerificationFailed
from stagekit.graph import Graph
from stagekit.graph.spec import Quantization
from stagekit.quant.adapters import quantise_adapter
from stagekit.quant.qdq import with_integer_edges
from stagekit.quant.record import Calibration, task_binding
from stagekit.quant.scheme import scheme_of
from stagekit.target import Profile

INTEGERS = ("int8", "int16")
"""Precisions whose ranges come from a record."""

SATURATION_LIMIT = 0.01
"""The share of any frozen tensor's values that a task may push out of its range."""


def check_precision(profile: Profile, calibration: Calibration | None) -> None:
    """A profile that computes in integers needs a record, and no other can use one.

    Raises:
        UsageError: one comes without the other.
    """
    if profile.precision in INTEGERS and calibration is None:
        raise UsageError(
            f"the profile {profile.name} computes in {profile.precision}, whose ranges come from a calibration record",
            where="--calibration",
            remedy="`stagekit calibrate X.stages --data IMAGES -o X.calib`, then compile with --calibration X.calib",
        )
    if profile.precision not in INTEGERS and calibration is not None:
        raise UsageError(
            f"the profile {profile.name} computes in {profile.precision}; a calibration record changes nothing there",
            where="--calibration",
            remedy="choose an int8 profile; `stagekit targets` lists them",
        )


def check_covered(calibration: Calibration, task: TaskManifest, path: Path) -> None:
    """A task's SPMs must have run while the ranges were taken, or an audit must have found them harmless.

    A task that was tuned through integer stages learned with their ranges, and is bound to them instead.

    Raises:
        VerificationFailed: neither is so; says how to extend the record or to audit.
    """
    binding = task_binding(task)
    if calibration.covers(binding) or task.through is not None:
        return
    record = f"{calibration.name}.calib"
    extend = f"extend the record: `stagekit calibrate X.stages {path} --data IMAGES -o {record} --extend`"
    audit = calibration.audit_of(binding)
    if audit is None:
        raise VerificationFailed(
            f"its SPMs are not among those that the record {calibration.name} covers, and were not audited",
            where=path,
            remedy=f"{extend}; or look: `stagekit calibrate X.stages --audit {path} --data IMAGES -o {record}`",
        )
    if audit.worst > SATURATION_LIMIT:
        raise VerificationFailed(
            f"its SPMs push {100 * audit.worst:.1f} % of the values of {audit.tensor} out of the range in the record"
            f" {calibration.name}; allowed {100 * SATURATION_LIMIT:g} %",
            where=path,
            remedy=f"{extend}; or tune it again with the ranges as a bound, or through them:"
            f" `stagekit tune RECIPE --through {record}`",
        )


def with_edges_of(boundary: Boundary, edges: Mapping[str, tuple[str, Quantization]]) -> Boundary:
    """The boundary with the element type and scale of those of its tensors that are integers."""
    tensors = tuple(
        replace(t, dtype=edges[t.name][0], quantization=edges[t.name][1]) if t.name in edges else t
        for t in boundary.tensors
    )
    return boundary.model_copy(update={"tensors": tensors})


def integer_edges(boundary: Boundary, *names: str) -> dict[str, tuple[str, Quantization]]:
    """A boundary's format for the edges of a task's graph that meet it; nothing where it is float."""
    spec = boundary.spec
    return {} if spec.quantization is None else dict.fromkeys(names, (spec.dtype, spec.quantization))


def adapter_graph(
    graph: Graph,
    entry: GraphEntry,
    edges: Mapping[str, tuple[str, Quantization]],
    calibration: Calibration | None,
    profile: Profile,
) -> Graph:
    """An SPM or head that meets integer boundaries: float inside, or in integers where a record is given.

    Raises:
        BundleError: the record did not see it.
        UsageError: the profile's integers are not the boundaries'.
    """
    if calibration is None:
        return with_integer_edges(graph, edges)
    return quantise_adapter(graph, entry.fingerprint, edges, calibration, scheme_of(profile))


def adapter_ranges(calibration: Calibration | None, wanted: bool, profile: Profile) -> Calibration | None:
    """The record that SPMs and heads take their ranges from, where they are wanted in integers.

    Raises:
        UsageError: there is no record, or their profile computes in floats.
    """
    if not wanted:
        return None
    if calibration is None or profile.precision not in INTEGERS:
        why = "there is no record" if calibration is None else f"the profile {profile.name} is {profile.precision}"
        raise UsageError(
            f"SPMs and heads cannot be int8: {why}",
            where="--int8-adapters",
            remedy="give --calibration and an int8 profile",
        )
    return calibration
