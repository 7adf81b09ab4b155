"""Compiling with TensorRT or TensorRT-RTX, and running on an NVIDIA GPU.

Precision comes from the types in the ONNX file (:mod:`stagekit_tensorrt.typed`), the one way that TensorRT 10, 11
and RTX have in common. RTX builds on machines without a GPU; TensorRT times kernels on the GPU that it builds for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stagekit.errors import CompileError, EngineError, TargetUnavailable
from stagekit.graph.spec import TensorSpec
from stagekit.store import Store
from stagekit.target import Availability, EngineBlob, Option, Profile, Progress, Unsupported
from stagekit_tensorrt import child, config, sidecar
from stagekit_tensorrt.build_engine import Differences
from stagekit_tensorrt.cuda import Cuda, runtime_module
from stagekit_tensorrt.engine import TrtEngine
from stagekit_tensorrt.gpu import gpus
from stagekit_tensorrt.installed import DISTRIBUTIONS, REMEDY, installed_version, resolve, vendor
from stagekit_tensorrt.kernel_cache import KernelCache
from stagekit_tensorrt.vendor_log import VendorLog, last_words, vendor_log

if TYPE_CHECKING:
    from stagekit.build.kit import WantedEngine
    from stagekit.graph import Graph

HALF_TYPES = {"fp16": "float16", "bf16": "bfloat16"}
LOG_LINES = 200
"""Of the builder's log, from its end, that are kept beside an engine."""


class TensorRtTarget:
    """Implements :class:`stagekit.target.Target` on TensorRT 10, TensorRT 11 and TensorRT-RTX."""

    name = "tensorrt"
    precisions: tuple[str, ...] = ("f32", "fp16", "bf16", "int8")
    options: Mapping[str, Option] = config.OPTIONS

    def probe(self) -> Availability:
        builder, version = next(((b, v) for b in DISTRIBUTIONS if (v := installed_version(b))), ("", ""))
        if not builder:
            return Availability(False, False, reason="no TensorRT is installed", remedy=REMEDY)
        described = f"{builder} {version}"
        try:
            _, row = vendor(builder)
        except TargetUnavailable as error:
            return Availability(False, False, described, reason=error.what, remedy=error.remedy or "")
        here = gpus()
        if not here:
            reason = "there is no NVIDIA GPU (or no driver) on this machine"
            remedy = "engines can be built here and run where a GPU is" if not row.needs_gpu else REMEDY
            return Availability(not row.needs_gpu, False, described, reason=reason, remedy=remedy)
        names = tuple(f"GPU:{gpu.index}" for gpu in here)
        try:
            runtime_module()
        except TargetUnavailable as error:
            return Availability(True, False, described, names, error.what, error.remedy or "")
        return Availability(True, True, described, names)

    def toolchain(self, profile: Profile) -> str:
        return sidecar.toolchain(profile)

    def device(self, profile: Profile) -> str:
        return sidecar.device(profile)

    def supports(self, graph: Graph, profile: Profile) -> list[Unsupported]:
        from stagekit_tensorrt.lint import lint
        from stagekit_tensorrt.typed import plan

        _check_builder(profile)
        return lint(plan(graph, graph.inputs, graph.outputs, profile))

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        """The plain form, and where floats are computed in half, half the bytes; TensorRT orders channels itself."""
        half = HALF_TYPES.get(config.float_precision(profile))
        if half is None or spec.dtype != "float32" or spec.quantization is not None:
            return [spec]
        return [spec, TensorSpec(spec.name, half, spec.shape, spec.layout)]

    def compile(
        self,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profile: Profile,
        workdir: Path,
        progress: Progress,
    ) -> EngineBlob:
        """See :class:`stagekit.target.Target`; full TensorRT keeps its timing cache in the store as well."""
        from stagekit_tensorrt.lint import refuse
        from stagekit_tensorrt.typed import plan

        _check_builder(profile)
        planned = plan(graph, inputs, outputs, profile)
        refuse(planned)
        planned.graph.save(workdir / "engine.onnx")
        cache = _kept_in_store(profile, "timing") if vendor(resolve(profile)[0])[1].timing_cache else None
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
        request = child.write_request(workdir, "engine", planned.config, cache)
        try:
            limit = config.positive(profile, "time_limit", child.TIME_LIMIT)
            built = child.run(request, progress, limit, gpu=sidecar.gpu_index(profile))
        except CompileError as error:
            raise CompileError(error.what, where=graph.source, remedy=error.remedy) from error
        finally:
            for leftover in (*workdir.glob("engine.onnx*"), request, workdir / "engine.result.json"):
                leftover.unlink(missing_ok=True)
        return EngineBlob(
            workdir,
            (sidecar.PLAN,),
            tuple(inputs),
            tuple(outputs),
            sidecar.metadata(profile, built.result, planned.node_counts()),
            {
                "seconds": built.result["seconds"],
                "processor_seconds": built.result["processor_seconds"],
                "warnings": built.result["warnings"],
                "layers": built.result["layers"],
                "log": built.log[-LOG_LINES:],
            },
        )

    def write_kit(self, folder: Path, wanted: Sequence[WantedEngine], profile: Profile, progress: Progress) -> None:
        """See :class:`stagekit.build.kit.WritesKits`; no TensorRT is needed here."""
        from stagekit_tensorrt.kit import write_kit

        write_kit(folder, wanted, profile, progress)

    def load(self, blob: EngineBlob, profile: Profile) -> TrtEngine:
        gpu = sidecar.gpu_of(profile)
        sidecar.check(blob, {"toolchain": self.toolchain(profile), "device": self.device(profile)}, gpu)
        builder, _ = resolve(profile)
        trt, row = vendor(builder)
        if gpu is None:
            raise TargetUnavailable(
                f"there is no {profile.device} on this machine",
                where=f"profile {profile.name}",
                remedy="run the deployment where an NVIDIA GPU and its driver are",
            )
        path = blob.root / blob.files[0]
        cuda = _cuda(gpu.index)
        cuda.activate()  # this may be another thread than the one that opened it
        engine, runtime, log = _deserialise(trt, row, path, blob.metadata["options"].get("version_compatible", False))
        batches = tuple(blob.metadata["batches"])
        kernels = _kernel_cache(profile) if row.kernel_cache else None
        return TrtEngine(engine, runtime, log, cuda, str(path), blob.inputs, blob.outputs, batches, kernels)


def _check_builder(profile: Profile) -> None:
    """The profile's builder must be here and able to build for what the profile asks for.

    Raises:
        TargetUnavailable: no builder, or no GPU where the builder needs one, or another than the profile asks for.
    """
    builder, version = resolve(profile)
    if not version:
        raise TargetUnavailable("no TensorRT is installed", where=f"profile {profile.name}", remedy=REMEDY)
    _, row = vendor(builder)
    gpu, asked = sidecar.gpu_of(profile), config.capabilities(profile)
    if not row.needs_gpu:
        unknown = [number for number in asked if number not in config.RTX_CAPABILITIES]
        if unknown:
            known = ", ".join(map(str, config.RTX_CAPABILITIES))
            raise TargetUnavailable(
                f"TensorRT-RTX builds for compute capability {known}, not {unknown[0]}",
                where=f"profile {profile.name}",
                remedy="name one of these, or use TensorRT on a machine with that GPU",
            )
    elif gpu is None or (asked and asked != (gpu.capability,)):
        found = f"{gpu.name} has compute capability {gpu.capability}" if gpu else "there is no GPU here"
        raise TargetUnavailable(
            f"TensorRT builds for the GPU that it runs on: {found}",
            where=f"profile {profile.name}",
            remedy="compile there; or take a kit there: stagekit compile ... --emit-kit DIR",
        )


def _kept_in_store(profile: Profile, what: str) -> Path | None:
    """A file for what this builder learns about this GPU; ``None`` where the profile wants none."""
    if not profile.options.get("timing_cache", True):
        return None
    gpu = sidecar.gpu_of(profile)
    name = " ".join([*resolve(profile), gpu.name if gpu else "no GPU"])
    return Store.default().root / what / f"{name.replace('/', '_').replace(' ', '_')}.cache"


def _deserialise(trt: ModuleType, row: Differences, path: Path, version_compatible: bool) -> tuple[Any, Any, VendorLog]:
    """The vendor's engine, and the runtime and log that must outlive it.

    Args:
        version_compatible: the plan holds a lean runtime, whose code a runtime runs only where it is told that it may.

    Raises:
        EngineError: the runtime refuses the plan.
    """
    log = vendor_log(trt)
    runtime = trt.Runtime(log)
    runtime.engine_host_code_allowed = version_compatible and row.lean_runtime
    content = path.read_bytes()
    if row.checks_plans:
        validity, diagnostics = runtime.get_engine_validity(content)
        if validity == trt.EngineValidity.INVALID:
            raise EngineError(
                f"TensorRT-RTX finds the plan invalid here (diagnostics {diagnostics:#x}){last_words(log)}",
                where=path,
                remedy="update the GPU's driver, or set compute_capability in the profile and compile again",
            )
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"TensorRT cannot load the plan{last_words(log)}", where=path, remedy="compile it again")
    return engine, runtime, log


_opened: dict[tuple[int, int], Cuda] = {}
_kernels: dict[tuple[int, Path], KernelCache] = {}


def _kernel_cache(profile: Profile) -> KernelCache | None:
    """One for each file and process: engines share what they compile, and the cache outlives them all."""
    path = _kept_in_store(profile, "kernels")
    return None if path is None else _kernels.setdefault((os.getpid(), path), KernelCache(path))


def _cuda(index: int) -> Cuda:
    """One for each GPU and process, so that engines recognise each other's buffers."""
    key = (os.getpid(), index)
    if key not in _opened:
        _opened[key] = Cuda(index)
    return _opened[key]
