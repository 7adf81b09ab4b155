"""Compiling with ONNX Runtime: its own optimised graph, written down, is the engine.

Compiling lets ONNX Runtime apply every optimisation that it has for this processor and write the result
(https://onnxruntime.ai/docs/performance/model-optimizations/graph-optimizations.html, "offline mode").
Loading switches optimisation off: what was decided once is not decided again, and a ResNet-50 opens in a
tenth of the time. The file holds layouts for this processor, so the device string is part of its identity.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stagekit.blob import check_blob, made_blob
from stagekit.calls import ThreadEngine
from stagekit.cpu import instruction_sets, usable_cores
from stagekit.errors import CompileError, EngineError, TargetUnavailable, UsageError
from stagekit.graph.spec import BATCH, BLOCKED, TensorSpec
from stagekit.quant.scheme import SCHEME_OPTIONS, scheme_of
from stagekit.quant.unasked import ONNXRUNTIME_OPTIMISERS, ask_for_exact_products
from stagekit.target import Availability, EngineBlob, Option, Profile, Progress, Unsupported
from stagekit.vendors import vendor_module
from stagekit.versions import first_version
from stagekit_onnxruntime.engine import OrtCall

if TYPE_CHECKING:
    from stagekit.graph import Graph

ENGINE_REVISION = 6
"""Counts changes to what :meth:`OnnxRuntimeTarget.compile` writes; enters every key."""

SLOW_OPTIMISERS = ("MatMulAddFusion",)
"""Left out in f32: of a product and a sum it makes a Gemm, which first writes the bias over the whole output
(a ViT-S/14 takes 1 % longer)."""

INLINE_LIMIT = 3 * 2**29
"""Bytes of weights above which they go beside the graph: a protobuf message ends at 2 GB, and padding to
the processor's vector width makes weights grow."""

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml")
"""Packages on PyPI that provide the module ``onnxruntime``."""


class OnnxRuntimeTarget:
    """Implements :class:`stagekit.target.Target` on ONNX Runtime's CPU kernels."""

    name = "onnxruntime"
    precisions: tuple[str, ...] = ("f32", "int8")
    options: Mapping[str, Option] = {
        "threads": Option(int, "threads an engine computes with; all cores when not set", affects_engine=False),
        **SCHEME_OPTIONS,
    }

    def probe(self) -> Availability:
        try:
            _vendor()
        except TargetUnavailable as error:
            return Availability(False, False, _version(), reason=error.what, remedy=error.remedy or "")
        return Availability(True, True, _version(), devices=("CPU",))

    def toolchain(self, profile: Profile) -> str:
        return f"onnxruntime {_version()} engine {ENGINE_REVISION}"

    def device(self, profile: Profile) -> str:
        return f"{profile.device} {instruction_sets()}"

    def refusal(self, profile: Profile) -> str:
        if profile.device != "CPU":
            return f"onnxruntime runs on the device 'CPU' here, not on {profile.device!r}"
        if profile.precision not in self.precisions:
            return (
                f"onnxruntime has no {profile.precision} kernels for convolutions and matrix products on x86 CPUs"
                f" (precisions: {', '.join(self.precisions)})"
            )
        return ""

    def supports(self, graph: Graph, profile: Profile) -> list[Unsupported]:
        _vendor()
        refusal = self.refusal(profile)
        if refusal:
            return [Unsupported(node="", op="", why=refusal)]
        from stagekit_onnxruntime.kernels import without_kernel

        return without_kernel(graph)

    def in_flight(self, profile: Profile) -> int:
        """One: a call computes on all threads, in the caller's thread, and there is nothing to transfer."""
        return 1

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        """The plain form; maps also in the groups of channels in which its convolutions compute."""
        from stagekit_onnxruntime.blocked import blocked_form

        blocked = blocked_form(spec) if profile.precision == "f32" else None
        return [spec, blocked] if blocked else [spec]

    def compile(
        self,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profile: Profile,
        workdir: Path,
        progress: Progress,
    ) -> EngineBlob:
        import onnx_ir as ir

        from stagekit.graph.edges import with_edges
        from stagekit_onnxruntime.blocked import block_edges
        from stagekit_onnxruntime.canonical import make_canonical

        vendor = _vendor()
        refusal = self.refusal(profile)
        if refusal:
            raise UsageError(refusal, where=f"profile {profile.name}")
        source, engine = workdir / "source.onnx", workdir / "engine.onnx"
        options = _session_options(vendor, profile)
        options.graph_optimization_level = vendor.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(engine)
        if len(profile.batch) == 1:
            # With several sizes the dimension stays symbolic: measured, that costs no time.
            options.add_free_dimension_override_by_name(BATCH, profile.batch[0])
        if graph.weight_bytes > INLINE_LIMIT:
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "engine.weights"
            )
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        progress(f"onnxruntime optimises {graph.source}")
        try:
            formed = with_edges(graph, _plain(inputs, graph.inputs), _plain(outputs, graph.outputs))
            formed.save(source)
            _session(vendor, source, options, SLOW_OPTIMISERS if profile.precision == "f32" else ())
            model = ir.load(engine)
            block_edges(model, inputs, outputs)
            make_canonical(model, _names(formed))
            ir.save(model, engine)
        except _vendor_errors(vendor) as error:
            _go_on_writing(engine, source.stat().st_size)
            raise CompileError(f"onnxruntime cannot build it: {_first_line(error)}", where=graph.source) from error
        finally:
            for leftover in workdir.glob("source.onnx*"):
                leftover.unlink()
        files = sorted(path.name for path in workdir.glob("engine.*"))
        return made_blob(self, profile, workdir, files, inputs, outputs)

    def load(self, blob: EngineBlob, profile: Profile) -> ThreadEngine:
        vendor = _vendor()
        check_blob(blob, self, profile)
        options = _session_options(vendor, profile)
        options.graph_optimization_level = vendor.GraphOptimizationLevel.ORT_DISABLE_ALL
        path = blob.root / "engine.onnx"
        try:
            session = _session(vendor, path, options)
        except _vendor_errors(vendor) as error:
            raise EngineError(
                f"the engine is damaged: {_first_line(error)}", where=path, remedy="compile it again"
            ) from error
        names = ([v.name for v in session.get_inputs()], [v.name for v in session.get_outputs()])
        if names != ([s.name for s in blob.inputs], [s.name for s in blob.outputs]):
            raise EngineError(f"its tensors are called {names}, not what its record says", where=path)
        batches = tuple(blob.metadata["batches"])
        call = OrtCall(session, blob.inputs, blob.outputs, batches)
        return ThreadEngine(str(path), blob.inputs, blob.outputs, batches, lambda: call)


def _plain(wanted: Sequence[TensorSpec], have: Sequence[TensorSpec]) -> list[TensorSpec]:
    """The edges in the forms that a graph can be given; blocked ones come into being behind the optimiser."""
    return [own if want.layout == BLOCKED else want for want, own in zip(wanted, have, strict=True)]


def _names(graph: Graph) -> set[str]:
    nodes = list(graph.model.graph.all_nodes())
    return {str(node.name) for node in nodes} | {str(value.name) for node in nodes for value in node.outputs}


def _vendor() -> ModuleType:
    return vendor_module("onnxruntime", remedy="pip install onnxruntime")


def _version() -> str:
    return first_version(*DISTRIBUTIONS)


def _session_options(vendor: ModuleType, profile: Profile) -> Any:
    options, threads = vendor.SessionOptions(), profile.count("threads", usable_cores())
    options.intra_op_num_threads = threads
    # Every session has threads of its own. If they spin for work between calls they take the cores from the next
    # engine of the chain (a ResNet-50 in five engines takes twice as long as in one); if they sleep within a
    # call, each of its parallel loops waits for them to wake up (a ViT in five engines takes 9 % longer).
    options.add_session_config_entry("session.intra_op.allow_spinning", "1")
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if pinning := pinned(threads):
        options.add_session_config_entry("session.intra_op_thread_affinities", pinning)
    options.add_session_config_entry("session.use_env_allocators", "1")
    if not scheme_of(profile).weight.bits:
        ask_for_exact_products(options)
    _share_arena(vendor)
    options.log_severity_level = 4  # what goes wrong is raised, and stderr is the caller's
    return options


def pinned(threads: int) -> str:
    """ONNX Runtime's notation for pool threads on cores of their own; empty where an engine does not take all cores.

    Threads that sleep between calls may be woken on the caller's core and then share it for seconds: frames of short
    calls take half as long again. The pool has one thread less than the engine, for the caller computes as well.
    """
    if not hasattr(os, "sched_getaffinity"):
        return ""
    cores = sorted(os.sched_getaffinity(0))
    return ";".join(str(core + 1) for core in cores[1:]) if threads == len(cores) else ""


@cache
def _share_arena(vendor: ModuleType) -> None:
    """One pool of memory for all sessions of the process: a chain of engines then holds one engine's worth of
    scratch memory, not the sum (ResNet-50 at 512 px: 325 MB resident instead of 570)."""
    kind, use = vendor.OrtAllocatorType.ORT_ARENA_ALLOCATOR, vendor.OrtMemType.DEFAULT
    vendor.create_and_register_allocator(vendor.OrtMemoryInfo("Cpu", kind, 0, use), None)


def _session(vendor: ModuleType, path: Path, options: Any, without: Sequence[str] = ()) -> Any:
    # Without fallback: its retry prints to stdout.
    return vendor.InferenceSession(
        str(path),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=[*ONNXRUNTIME_OPTIMISERS, *without],
        enable_fallback=0,
    )


def _go_on_writing(file: Path, count: int) -> None:
    """Raises the OSError that ONNX Runtime met where it could not write on, and gave no word of ("Protobuf
    serialization failed"); what was written goes, and on a disk with space that is all."""
    try:
        with file.open("ab") as end:
            end.write(bytes(count))
    finally:
        file.unlink(missing_ok=True)


def _vendor_errors(vendor: ModuleType) -> tuple[type[Exception], ...]:
    state = vendor.capi.onnxruntime_pybind11_state
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
    return (*(getattr(state, name) for name in names), RuntimeError, ValueError)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
