"""Compiling with TensorRT or TensorRT-RTX, and running on an NVIDIA GPU.

Precision comes from the types in the ONNX file (:mod:`stagekit_tensorrt.typed`), the one way that TensorRT 10, 11
and RTX have in common. RTX builds on machines without a GPU; TensorRT times kernels on the GPU that it builds for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stagekit.errors import CompileError, TargetUnavailable
from stagekit.graph.spec import TensorSpec
from stagekit.store import Store
from stagekit.target import Availability, EngineBlob, Option, Profile, Progress, Unsupported
from stagekit_tensorrt import child, config, loading, sidecar
from stagekit_tensorrt.builder.gpu import gpus
from stagekit_tensorrt.cuda import runtime_module
from stagekit_tensorrt.engine import TrtEngine
from stagekit_tensorrt.installed import DISTRIBUTIONS, REMEDY, installed_version, resolve, vendor

if TYPE_CHECKING:
    from stagekit.build.engines import WantedEngine
    from stagekit.graph import Graph
    from stagekit_tensorrt.typed import Plan

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
        from stagekit.build.engines import Builder
        from stagekit_tensorrt.lint import refuse
        from stagekit_tensorrt.shared import compile_shared
        from stagekit_tensorrt.typed import plan

        _check_builder(profile)
        planned = plan(graph, inputs, outputs, profile)
        refuse(planned)
        if not profile.options.get("shared", False):
            return self._build(planned, inputs, outputs, profile, workdir, progress)
        key = Builder(self, profile, Store.default()).key(graph, inputs, outputs)

        def build(lean: Plan, folder: Path) -> EngineBlob:
            return self._build(lean, lean.graph.inputs, lean.graph.outputs, profile, folder, progress)

        return compile_shared(planned, key, workdir, progress, build)

    def _build(
        self,
        planned: Plan,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profile: Profile,
        workdir: Path,
        progress: Progress,
    ) -> EngineBlob:
        planned.graph.save(workdir / "engine.onnx")
        cache = loading.kept_in_store(profile, "timing") if vendor(resolve(profile)[0])[1].timing_cache else None
        if cache:
            cache.parent.mkdir(parents=True, exist_ok=True)
        request = child.write_request(workdir, "engine", planned.config, cache)
        try:
            limit = profile.count("time_limit", child.TIME_LIMIT)
            built = child.run(request, progress, limit, gpu=sidecar.gpu_index(profile))
        except CompileError as error:
            raise CompileError(error.what, where=planned.graph.source, remedy=error.remedy) from error
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
        """See :class:`stagekit.target.Target` and :func:`stagekit_tensorrt.loading.load`."""
        return loading.load(blob, profile)


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
