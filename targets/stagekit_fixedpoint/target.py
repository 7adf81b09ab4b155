"""The fixed-point target: compiles Q/DQ graphs for a described device and emulates them exactly.

An engine is two files: ``program.json`` and ``arrays.npz``. Its bytes depend on the graph and the device's
arithmetic alone, so that any machine may load it.
"""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stagekit.blob import check_blob, made_blob
from stagekit.calls import ThreadEngine
from stagekit.cpu import usable_cores
from stagekit.errors import CompileError, EngineError, UsageError
from stagekit.graph.spec import Quantization, TensorSpec
from stagekit.quant.scheme import SCHEME_OPTIONS
from stagekit.target import Availability, EngineBlob, Option, Profile, Progress, Unsupported
from stagekit_fixedpoint.device import Device, load_device
from stagekit_fixedpoint.engine import run_program, to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.files import from_json, pack_arrays, to_json
from stagekit_fixedpoint.program import Array, Program, Tensor
from stagekit_fixedpoint.report import report

if TYPE_CHECKING:
    from stagekit.graph import Graph

ENGINE_REVISION = 5
"""Counts changes to what :meth:`FixedPointTarget.compile` writes; enters every key."""

FILES = ("program.json", "arrays.npz")


class FixedPointTarget:
    """Implements :class:`stagekit.target.Target` for integer accelerators that are described, not present."""

    name = "fixedpoint"
    adapter_target = "onnxruntime"
    """SPMs and heads stay float, on the CPU beside the device."""
    precisions: tuple[str, ...] = ("int8", "int16")
    options: Mapping[str, Option] = {
        **SCHEME_OPTIONS,
        "device_file": Option(str, "path of a device description; the profile's device names a shipped one"),
        "host": Option(bool, "what the device cannot compute runs in floats on the host; false"),
        "threads": Option(int, "threads the emulation computes with; all cores when not set", affects_engine=False),
    }

    def probe(self) -> Availability:
        return Availability(True, True, f"engine {ENGINE_REVISION}", devices=("emulated",))

    def toolchain(self, profile: Profile) -> str:
        return f"fixedpoint engine {ENGINE_REVISION}"

    def device(self, profile: Profile) -> str:
        """The name of a shipped description; of one's own, what it says besides, since a file may change."""
        if "device_file" not in profile.options:
            return profile.device
        return f"{profile.device} {hashlib.sha256(repr(device_of(profile)).encode()).hexdigest()[:16]}"

    def supports(self, graph: Graph, profile: Profile) -> list[Unsupported]:
        from stagekit_fixedpoint.lowering import lower

        return list(lower(graph, device_of(profile), _host(profile)).problems)

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        """The plain form, and the stored integers where the spec says what they stand for."""
        if spec.dtype != "float32" or spec.quantization is None:
            return [replace(spec, quantization=None) if spec.dtype == "float32" else spec]
        arithmetic = device_of(profile).arithmetic
        widths = dict.fromkeys(
            8 if bits <= 8 else 16 for bits in (arithmetic.activation_bits, arithmetic.wide_bits) if bits
        )
        return [replace(spec, quantization=None), *(replace(spec, dtype=f"int{width}") for width in widths)]

    def compile(
        self,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profile: Profile,
        workdir: Path,
        progress: Progress,
    ) -> EngineBlob:
        from stagekit_fixedpoint.lowering import lowered

        device = device_of(profile)
        progress(f"fixedpoint lowers {graph.source} to {device.name}")
        result = lowered(graph, device, _host(profile))
        program = result.program
        edges = [
            _edge(spec, program.tensors[name], graph.source)
            for specs, names in ((inputs, program.inputs), (outputs, program.outputs))
            for spec, name in zip(specs, names, strict=True)
        ]
        (workdir / FILES[0]).write_text(to_json(program), encoding="utf-8")
        (workdir / FILES[1]).write_bytes(pack_arrays(program.arrays))
        blob = made_blob(self, _anywhere(profile), workdir, FILES, edges[: len(inputs)], edges[len(inputs) :])
        return replace(blob, report=report(program, device, result.share).to_dict())

    def load(self, blob: EngineBlob, profile: Profile) -> ThreadEngine:
        threads = profile.count("threads", usable_cores())
        check_blob(blob, self, _anywhere(profile))
        program = load_program(blob.root)
        batches = tuple(int(b) for b in blob.metadata["batches"])
        call = partial(run_program, Fast(program, threads), blob.outputs)
        return ThreadEngine(str(blob.root), blob.inputs, blob.outputs, batches, lambda: call)

    def observe(
        self, root: Path, inputs: Sequence[Array], reals: Mapping[str, Array]
    ) -> tuple[list[Array], list[dict[str, float | None]]]:
        """See :class:`stagekit.target.Observing`."""
        from stagekit_fixedpoint.observe import observe

        program = load_program(root)
        values, seen = observe(program, _inputs(program, inputs), reals)
        return [values[name] for name in program.outputs], [asdict(row) for row in seen]


def _inputs(program: Program, values: Sequence[Array]) -> dict[str, Array]:
    return {n: to_stored(v, program.tensors[n]) for n, v in zip(program.inputs, values, strict=True)}


def _anywhere(profile: Profile) -> Profile:
    """The profile by which an engine is checked when it is loaded: one's own description need not be there any more."""
    return replace(profile, options={k: v for k, v in profile.options.items() if k != "device_file"})


def _host(profile: Profile) -> bool:
    return bool(profile.options.get("host", False))


def device_of(profile: Profile) -> Device:
    """The device description that a profile names."""
    named = str(profile.options.get("device_file", profile.device))
    device = load_device(named, where=f"profile {profile.name}")
    wanted = "int8" if device.arithmetic.activation_bits <= 8 else "int16"
    if profile.precision != wanted:
        raise UsageError(
            f"precision is {profile.precision!r}, but {device.name} computes in {wanted}",
            where=f"profile {profile.name}",
        )
    return device


def load_program(root: Path) -> Program:
    """The program in an engine's folder.

    Raises:
        EngineError: a file is damaged.
    """
    try:
        with np.load(root / FILES[1], allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return from_json((root / FILES[0]).read_text(encoding="utf-8"), arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise EngineError(f"the engine is damaged: {error}", where=root, remedy="compile it again") from error


def _edge(spec: TensorSpec, tensor: Tensor, source: str) -> TensorSpec:
    """The edge as it will be: floats, or the program's own integers with their scale."""
    own = str(tensor.format)
    if spec.dtype not in ("float32", own):
        raise CompileError(f"an edge of {spec.dtype} was asked for; it can be float32 or {own}", where=spec.name)
    have = Quantization((tensor.scale,), (tensor.zero_point,))
    if spec.dtype == "float32":
        return replace(spec, quantization=None)
    if spec.quantization is not None and spec.quantization != have:
        raise CompileError(f"the edge stands for {spec.quantization}, the graph has {have}", where=spec.name)
    if tensor.shape != tuple(spec.shape[1:]):
        raise CompileError(f"the edge has the shape {spec.shape}, the graph's is {tensor.shape}", where=source)
    return replace(spec, quantization=have)
