"""Compiling with OpenVINO: one exported blob for each batch size.

A static shape lets OpenVINO plan memory and kernels ahead, so every batch size is compiled for itself.
``export_model`` keeps the transformed graph; importing it takes a third of the time of compiling
(https://docs.openvino.ai/2025/api/c_cpp_api/group__ov__runtime__cpp__api.html).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from stagekit.blob import check_blob, made_blob
from stagekit.calls import ThreadEngine
from stagekit.cpu import computes_bf16, instruction_sets, usable_cores
from stagekit.errors import CompileError, EngineError, TargetUnavailable, UsageError
from stagekit.graph.spec import TensorSpec
from stagekit.quant.scheme import SCHEME_OPTIONS
from stagekit.target import Availability, EngineBlob, Option, Profile, Progress, Unsupported
from stagekit.vendors import vendor_module
from stagekit.versions import first_version
from stagekit_openvino.core import shared_core
from stagekit_openvino.engine import OvCall
from stagekit_openvino.export import canonical_export
from stagekit_openvino.message import gist

if TYPE_CHECKING:
    from stagekit.graph import Graph

ENGINE_REVISION = 4
"""Counts changes to what :meth:`OpenVinoTarget.compile` writes; enters every key."""

HINTS = {"f32": "f32", "bf16": "bf16", "fp16": "f16"}
"""``INFERENCE_PRECISION_HINT`` for each type of floats. int8 comes from the graph's own Q/DQ nodes; the hint is for
what they leave in floats."""

CAPABILITIES = {"f32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
"""The entry of a device's ``OPTIMIZATION_CAPABILITIES`` that each precision needs."""


class OpenVinoTarget:
    """Implements :class:`stagekit.target.Target` on any device that OpenVINO finds."""

    name = "openvino"
    precisions: tuple[str, ...] = ("f32", "bf16", "fp16", "int8")
    options: Mapping[str, Option] = {
        "threads": Option(int, "CPU threads an engine computes with; all cores when not set", affects_engine=False),
        "streams": Option(int, "calls of one engine that the CPU computes side by side; 1", affects_engine=False),
        "floats": Option(str, "int8: f32 (default), bf16, or cpu, which is bf16 where the CPU computes it"),
        "performance_hint": Option(str, "LATENCY (default) or THROUGHPUT, as OpenVINO's PERFORMANCE_HINT"),
        **SCHEME_OPTIONS,
    }

    def probe(self) -> Availability:
        try:
            devices = tuple(shared_core(_vendor()).available_devices)
        except TargetUnavailable as error:
            return Availability(False, False, _version(), reason=error.what, remedy=error.remedy or "")
        except RuntimeError as error:
            reason = f"openvino does not start: {gist(error)}"
            return Availability(
                False, False, _version(), reason=reason, remedy="pip install --force-reinstall openvino"
            )
        return Availability(True, True, _version(), devices)

    def toolchain(self, profile: Profile) -> str:
        return f"openvino {_version()} engine {ENGINE_REVISION}"

    def device(self, profile: Profile) -> str:
        """The name as the profile gives it; where a CPU takes part, with its instruction sets."""
        return f"{profile.device} {instruction_sets()}" if "CPU" in _parts(profile.device) else profile.device

    def refusal(self, profile: Profile) -> str:
        """A precision that the devices do not compute in: OpenVINO itself would take f32 without a word."""
        for part in _parts(profile.device):
            known = list(_core(profile).get_property(part, "OPTIMIZATION_CAPABILITIES"))
            for kind in (profile.precision, floats(profile)):
                if CAPABILITIES[kind] not in known:
                    return f"{part} computes in {', '.join(known)}, not in {kind}"
        return ""

    def supports(self, graph: Graph, profile: Profile) -> list[Unsupported]:
        core, refusal = _core(profile), self.refusal(profile)
        if refusal:
            return [Unsupported("", "", refusal)]
        from stagekit_openvino.frontend import without_conversion

        return without_conversion(core, graph)

    def in_flight(self, profile: Profile) -> int:
        """One for each stream on a CPU, which has nothing to transfer; elsewhere two, so that data move meanwhile.

        Two where calls are ordered: the second is there when the first ends.
        """
        streams = profile.count("streams", 1)
        return streams if profile.device == "CPU" and not self.ordered(profile) else 2

    def ordered(self, profile: Profile) -> bool:
        """On the CPU, where all engines share one stream, which takes calls in the order in which they come."""
        return profile.device == "CPU" and _on_one_stream(profile)

    def boundaries(self, spec: TensorSpec, profile: Profile) -> list[TensorSpec]:
        """The plain form; maps also channels last, and in bf16 all of it at half the bytes as well.

        Inside, convolutions run channels last and in bf16, so a matching boundary spares reorders; which form
        is quickest differs by graph and machine and is for the caller to measure.
        """
        layouts = [spec]
        if spec.layout == "NCHW":
            layouts.append(spec.transposed("NHWC"))
        if floats(profile) != "bf16" or spec.dtype != "float32" or spec.quantization is not None:
            return layouts
        halved = [TensorSpec(s.name, "bfloat16", s.shape, s.layout) for s in layouts]
        return [*layouts, *halved]

    def compile(
        self,
        graph: Graph,
        inputs: Sequence[TensorSpec],
        outputs: Sequence[TensorSpec],
        profile: Profile,
        workdir: Path,
        progress: Progress,
    ) -> EngineBlob:
        from stagekit.graph.edges import with_edges
        from stagekit_openvino.layout import with_free_transposes

        vendor, core, refusal = _vendor(), _core(profile), self.refusal(profile)
        if refusal:
            raise UsageError(refusal, where=f"profile {profile.name}")
        source = workdir / "source.onnx"
        files = [f"engine.b{batch}.blob" for batch in profile.batch]
        with_free_transposes(with_edges(graph, inputs, outputs)).save(source)
        try:
            for batch, name in zip(profile.batch, files, strict=True):
                progress(f"openvino compiles {graph.source} for {profile.device}, batch {batch}")
                model = core.read_model(str(source))
                model.reshape({i: _partial_shape(vendor, spec.bind(batch=batch)) for i, spec in enumerate(inputs)})
                compiled = core.compile_model(model, profile.device, _properties(profile))
                exported = io.BytesIO()
                compiled.export_model(exported)
                (workdir / name).write_bytes(exported.getbuffer())
        except (RuntimeError, ValueError) as error:
            raise CompileError(f"openvino cannot build it: {gist(error)}", where=graph.source) from error
        finally:
            for leftover in workdir.glob("source.onnx*"):
                leftover.unlink()
        return made_blob(self, profile, workdir, files, inputs, outputs)

    def load(self, blob: EngineBlob, profile: Profile) -> ThreadEngine:
        core = _core(profile)
        check_blob(blob, self, profile)
        compiled = {}
        for batch, name in zip(blob.metadata["batches"], blob.files, strict=True):
            path = blob.root / name
            try:
                # The precision is decided again on import, so it is given again.
                compiled[batch] = core.import_model(path.read_bytes(), profile.device, _properties(profile))
            except (RuntimeError, ValueError) as error:
                raise EngineError(
                    f"the engine is damaged: {gist(error)}", where=path, remedy="compile it again"
                ) from error
            if (len(compiled[batch].inputs), len(compiled[batch].outputs)) != (len(blob.inputs), len(blob.outputs)):
                raise EngineError("its inputs and outputs are not those of its record", where=path)
        new_call = partial(OvCall, compiled, blob.outputs)
        name, batches = str(blob.root / blob.files[0]), tuple(compiled)
        return ThreadEngine(name, blob.inputs, blob.outputs, batches, new_call, self.ordered(profile))


def floats(profile: Profile) -> str:
    """The type of what is computed in floats: the profile's precision, or in int8 that of what is not quantised."""
    if profile.precision != "int8":
        return profile.precision
    stated = profile.choice("floats", ("f32", "bf16", "cpu"), "f32")
    return ("bf16" if computes_bf16() else "f32") if stated == "cpu" else stated


def _vendor() -> ModuleType:
    return vendor_module("openvino", remedy="pip install 'stagekit[openvino]'")


def _version() -> str:
    return first_version("openvino")


def _parts(device: str) -> list[str]:
    """The devices in a name such as ``GPU.0`` or ``HETERO:GPU,CPU``."""
    return [part.partition("(")[0] for part in device.partition(":")[2].split(",")] if ":" in device else [device]


def _core(profile: Profile) -> Any:
    """The process's core, once all of the profile's devices are known to be here.

    Raises:
        TargetUnavailable: openvino does not import, or a device is not here; lists those that are.
    """
    core = shared_core(_vendor())
    here = list(core.available_devices)
    families = {name.partition(".")[0] for name in here}
    for part in _parts(profile.device):
        if part not in here and part not in families:
            raise TargetUnavailable(
                f"there is no device {part!r} on this machine; openvino finds {', '.join(here) or 'none'}",
                where=f"profile {profile.name}",
                remedy="name one of these in the profile, or install the device's driver",
            )
    return core


def _properties(profile: Profile) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[floats(profile)],
        "PERFORMANCE_HINT": profile.choice("performance_hint", ("LATENCY", "THROUGHPUT"), "LATENCY"),
    }
    if profile.device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = profile.count("threads", usable_cores())
        properties["NUM_STREAMS"] = str(profile.count("streams", 1))
        # All engines on one stream's threads, where those are what was asked for. With threads of its own each
        # engine of a chain finds the cores taken by the one before, which still spins for work (up to 15 % slower).
        properties["EXCLUSIVE_ASYNC_REQUESTS"] = _on_one_stream(profile)
        # Many engines share the cores; pinned to the same ones they would wait for each other.
        properties["ENABLE_CPU_PINNING"] = False
        properties |= canonical_export()
    return properties


def _on_one_stream(profile: Profile) -> bool:
    """Whether an engine on the CPU shares its threads with all others: they are as many as it may have."""
    return profile.count("streams", 1) == 1 and profile.count("threads", usable_cores()) == usable_cores()


def _partial_shape(vendor: ModuleType, spec: TensorSpec) -> Any:
    return vendor.PartialShape([d if isinstance(d, int) else -1 for d in spec.shape])
