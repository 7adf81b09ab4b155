"""Builds one engine with TensorRT 10, TensorRT 11 or TensorRT-RTX; needs Python's own library and the vendor's alone.

::

    python build_engine.py KIT/stage1.request.json          # or several, or a folder

stagekit runs this file as a process of its own, where ``--serve BUILDER`` takes the paths of requests from standard
input; a kit for people who build elsewhere holds a copy of it. Each engine is built in a process forked from one that
has the vendor's library loaded, so that a crash of the vendor's code ends that build and nothing else. A request
names the ONNX file, the build configuration (:class:`stagekit_tensorrt.config.BuildConfig`) and where plan and result
go, relative to itself.

Sources: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/ and for the differences
https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-python-api.html,
https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import json
import os
import runpy
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Differences:
    """What one family of the vendor's builders does differently; everything else is the same code.

    Args:
        module: the Python module.
        needs_gpu: building times kernels on the GPU that is here; else it names compute capabilities.
        timing_cache: kernel timings can be kept; RTX has the calls, and they do nothing.
        kernel_cache: the runtime compiles kernels, and can keep them.
        lean_runtime: the lean runtime that ``version_compatible`` puts into a plan is part of the package.
        checks_plans: ``Runtime.get_engine_validity`` looks at a plan without loading it.
        inspector_edges: the key of inputs and outputs in the engine inspector's JSON.
    """

    module: str
    needs_gpu: bool
    timing_cache: bool
    kernel_cache: bool
    lean_runtime: bool
    checks_plans: bool
    inspector_edges: str


DIFFERENCES = {
    ("tensorrt", 10): Differences("tensorrt", True, True, False, True, False, "Bindings"),
    ("tensorrt", 11): Differences("tensorrt", True, True, False, True, False, "I/O Tensors"),
    ("tensorrt-rtx", 1): Differences("tensorrt_rtx", False, False, True, False, True, "I/O Tensors"),
}
"""By builder and major version."""


NO_RANDOM_ADDRESSES = 0x0040000
"""``ADDR_NO_RANDOMIZE`` of personality(2)."""


class BuildFailed(Exception):
    """The vendor refused; the message names the node where it can."""


def differences(builder: str, version: str) -> Differences:
    """The row for a version.

    Raises:
        BuildFailed: of a major version that nobody has looked at yet.
    """
    major = int(version.partition(".")[0])
    if (builder, major) not in DIFFERENCES:
        known = ", ".join(f"{name} {number}" for name, number in DIFFERENCES)
        raise BuildFailed(f"{builder} {version} is not one of the versions this was written for: {known}")
    return DIFFERENCES[builder, major]


def import_vendor(builder: str) -> tuple[str, Any]:
    """The builder's name and its module; ``auto`` takes TensorRT where it imports, else TensorRT-RTX.

    Raises:
        ImportError: neither imports, or a library of theirs does not load.
    """
    if builder == "auto":
        try:
            return import_vendor("tensorrt")
        except ImportError:
            return import_vendor("tensorrt-rtx")
    try:
        return builder, importlib.import_module(builder.replace("-", "_"))
    except OSError as error:
        raise ImportError(str(error)) from error


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
            options.set_compute_capability(getattr(trt.ComputeCapability, f"SM{number}"), index)


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
    """The first GPU here; ``gpu.py`` lies beside this file, which is run by its path."""
    found = runpy.run_path(str(Path(__file__).with_name("gpu.py")))["gpus"]()
    return {"index": 0, "name": found[0].name, "capability": found[0].capability} if found else None


def _layers(trt: Any, log: Any, plan: bytes) -> Any:
    """The engine inspector's account of the layers; only where a GPU is, so with full TensorRT."""
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:
        return None
    return json.loads(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def with_fixed_addresses() -> None:
    """Starts this process again with memory at the same addresses every time, where Linux allows it.

    TensorRT-RTX 1.7.1 sorts some things by address: about one build in a hundred of a graph with two outputs listed
    them the other way round. Containers may forbid the switch; the engine is then as good, its bytes may differ.
    """
    if not sys.platform.startswith("linux"):
        return
    personality = ctypes.CDLL(None).personality
    now = personality(0xFFFFFFFF)  # asks
    if now & NO_RANDOM_ADDRESSES or personality(now | NO_RANDOM_ADDRESSES) == -1:
        return
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, sys.orig_argv)


def build_apart(request: Path) -> int:
    """Builds in a process forked from this one, or in this one where there is no fork.

    Returns:
        0 done, 1 refused, 3 the vendor's package is not here; of a crash the signal's number, negative.
    """
    if not hasattr(os, "fork"):
        return _build_and_tell(request)
    sys.stdout.flush()
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = 1
    try:
        code = _build_and_tell(request)
    except Exception:
        traceback.print_exc(file=sys.stdout)
    finally:
        sys.stdout.flush()
        os._exit(code)


def _build_and_tell(request: Path) -> int:
    try:
        result = build(request, lambda line: print(line, flush=True))
    except (BuildFailed, ImportError) as error:
        print(f"FAILED: {request.name}: {error}", flush=True)
        return 3 if isinstance(error, ImportError) else 1
    print(f"BUILT: {request.name}: {result['bytes']} bytes, {result['seconds']:.1f} s", flush=True)
    return 0


def serve(builder: str) -> int:
    """Builds the request on each line of standard input; ends each log with a line ``ENDED: <exit code>``."""
    with suppress(ImportError):  # each request will say so
        import_vendor(builder)
    for line in sys.stdin:
        code = build_apart(Path(line.rstrip("\n")))
        print(f"\nENDED: {code}", flush=True)  # a crash may have left half a line
    return 0


def main(arguments: list[str]) -> int:
    """Builds every request named, whatever becomes of the others; returns the first exit code that is not 0."""
    if arguments[:1] == ["--serve"]:
        return serve(arguments[1])
    requests: list[Path] = []
    for path in map(Path, arguments):
        requests += sorted(path.glob("*.request.json")) if path.is_dir() else [path]
    codes = [build_apart(request) for request in requests]
    for request, code in zip(requests, codes, strict=True):
        if code < 0:
            print(f"FAILED: {request.name}: the builder crashed (signal {-code})", flush=True)
    return next((abs(code) for code in codes if code), 0)


if __name__ == "__main__":
    with_fixed_addresses()
    sys.exit(main(sys.argv[1:]))
