"""One engine: a request in, plan and result out.

A request names the ONNX file, the build configuration (:class:`stagekit_tensorrt.config.BuildConfig`) and where plan
and result go, relative to itself.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ and
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from .gpu import gpus
from .vendors import BuildFailed, Differences, differences, import_vendor


def build(request: Path, emit: Any = print) -> dict[str, Any]:
    """Builds what a request asks for; writes the plan and the result, and returns the result.

    Args:
        emit: given each line of the vendor's log.

    Raises:
        BuildFailed: the parser or the builder refused.
        ImportError: the vendor's package is not here.
    """
    asked = json.loads(request.read_text(encoding="utf-8"))
    config = asked["config"]
    name, trt = import_vendor(config["builder"])
    row = differences(name, trt.__version__)
    log = _logger(trt, emit)
    builder = trt.Builder(log)
    # TensorRT 10 must be asked to take its precision from the ONNX types; the others do nothing else.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    network.name = "stagekit"  # else it is numbered, and the number is part of the plan
    parse(trt, network, log, request.parent / asked["onnx"])
    options = builder.create_builder_config()
    _configure(trt, options, config, row)
    _add_profile(builder, options, config["shapes"])
    cache = request.parent / asked["timing_cache"] if asked.get("timing_cache") and row.timing_cache else None
    if cache:
        _read_timings(options, cache)
    begun = time.perf_counter()
    plan = builder.build_serialized_network(network, options)
    if plan is None:
        raise BuildFailed("; ".join(log.errors[:3]) or "the builder gave no reason")
    content = bytes(plan)
    (request.parent / asked["plan"]).write_bytes(content)
    if cache:
        fresh = cache.with_name(f"{cache.name}.{os.getpid()}")
        fresh.write_bytes(bytes(options.get_timing_cache().serialize()))
        fresh.replace(cache)  # at one stroke: other builds read it
    result = {
        "builder": name,
        "version": trt.__version__,
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time(),  # of this process, which does nothing else
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "onnx_sha256": hashlib.sha256((request.parent / asked["onnx"]).read_bytes()).hexdigest(),
        "gpu": _gpu(),
        "warnings": log.warnings,
        "layers": _layers(trt, log, content) if row.needs_gpu else None,
    }
    (request.parent / asked["result"]).write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def parse(trt: Any, network: Any, log: Any, onnx: Path) -> None:
    """Reads the ONNX file into the network.

    Raises:
        BuildFailed: lists the nodes that the parser cannot take, by their names in the file.
    """
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(onnx)):
        return
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        first_line = error.desc().strip().partition("\n")[0]
        found.append(f"{error.node_name() or '(no node)'} ({error.node_operator()}): {first_line}")
    raise BuildFailed("; ".join(found[:5]) or "the parser gave no reason")


def _logger(trt: Any, emit: Any) -> Any:
    """A logger that keeps warnings and errors and passes every line on."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            line = message.strip()
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(line)
            elif severity == trt.ILogger.Severity.WARNING:
                self.warnings.append(line)
            if severity != trt.ILogger.Severity.VERBOSE:
                emit(f"{severity.name}: {line}")

    return Log()


def _configure(trt: Any, options: Any, config: dict[str, Any], row: Differences) -> None:
    # TF32 is on by default and keeps 10 bits of mantissa; f32 means f32 unless the profile says otherwise.
    (options.set_flag if config["tf32"] else options.clear_flag)(trt.BuilderFlag.TF32)
    options.profiling_verbosity = getattr(trt.ProfilingVerbosity, config["verbosity"].upper())
    options.builder_optimization_level = config["optimization_level"]
    if config["workspace_mib"]:
        options.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, config["workspace_mib"] << 20)
    if config["version_compatible"]:
        options.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if not row.lean_runtime:
            options.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if row.needs_gpu:
        level = config["hardware_compatibility"].upper()
        options.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    elif config["compute_capabilities"]:
        options.num_compute_capabilities = len(config["compute_capabilities"])
        for index, number in enumerate(config["compute_capabilities"]):
            if not options.set_compute_capability(trt.ComputeCapability(number), index):
                raise BuildFailed(f"{row.module} {trt.__version__} builds for no compute capability {number}")


def _read_timings(options: Any, cache: Path) -> None:
    """Takes over what earlier builds measured; a damaged file, or one of another version or GPU, counts for nothing."""
    for content in (cache.read_bytes() if cache.exists() else b"", b""):
        timings = options.create_timing_cache(content)
        if timings is not None and options.set_timing_cache(timings, False):
            return


def _add_profile(vendor_builder: Any, options: Any, shapes: dict[str, list[list[int]]]) -> None:
    if not shapes:
        return
    profile = vendor_builder.create_optimization_profile()
    for name, (least, usual, most) in shapes.items():
        profile.set_shape(name, least, usual, most)
    if options.add_optimization_profile(profile) < 0:
        raise BuildFailed(f"the builder refuses the optimization profile {shapes}")


def _gpu() -> dict[str, Any] | None:
    """The first GPU here."""
    found = gpus()
    return {"index": 0, "name": found[0].name, "capability": found[0].capability} if found else None


def _layers(trt: Any, log: Any, plan: bytes) -> Any:
    """The engine inspector's account of the layers; only where a GPU is, so with full TensorRT."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
