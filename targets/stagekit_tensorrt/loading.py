"""Opening plans on this machine's GPU; what engines share there lives as long as the process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsInt

from stagekit.errors import EngineError, TargetUnavailable
from stagekit.store import Store
from stagekit.target import EngineBlob, Profile
from stagekit_tensorrt import sidecar
from stagekit_tensorrt.builder.vendors import Differences
from stagekit_tensorrt.cuda import Cuda
from stagekit_tensorrt.engine import TrtEngine
from stagekit_tensorrt.installed import resolve, vendor
from stagekit_tensorrt.kernel_cache import KernelCache
from stagekit_tensorrt.vendor_log import VendorLog, last_words, vendor_log


def load(blob: EngineBlob, profile: Profile) -> TrtEngine:
    """Opens an engine, having checked that this machine may see its plan.

    Raises:
        EngineError: another version or device, other bytes than those built, or the runtime refuses the plan.
        TargetUnavailable: the vendor's package or the GPU is not here.
    """
    from stagekit_tensorrt.shared import read_weights

    gpu = sidecar.gpu_of(profile)
    sidecar.check(blob, {"toolchain": sidecar.toolchain(profile), "device": sidecar.device(profile)}, gpu)
    trt, row = vendor(resolve(profile)[0])
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
    return TrtEngine(
        engine,
        runtime,
        log,
        cuda,
        str(path),
        blob.inputs,
        blob.outputs,
        tuple(blob.metadata["batches"]),
        _kernel_cache(profile) if row.kernel_cache else None,
        read_weights(blob),
    )


def kept_in_store(profile: Profile, what: str) -> Path | None:
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
            reasons = ", ".join(_reasons(dict(trt.EngineInvalidityDiagnostics.__members__), diagnostics))
            raise EngineError(
                f"TensorRT-RTX finds the plan invalid here ({reasons or 'it gives no reason'}){last_words(log)}",
                where=path,
                remedy="update the GPU's driver, or set compute_capability in the profile and compile again",
            )
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"TensorRT cannot load the plan{last_words(log)}", where=path, remedy="compile it again")
    return engine, runtime, log


def _reasons(bits: Mapping[str, SupportsInt], diagnostics: int) -> list[str]:
    return [name.lower().replace("_", " ") for name, bit in bits.items() if diagnostics & int(bit)]


_opened: dict[tuple[int, int], Cuda] = {}
_kernels: dict[tuple[int, Path], KernelCache] = {}


def _kernel_cache(profile: Profile) -> KernelCache | None:
    """One for each file and process: engines share what they compile, and the cache outlives them all."""
    path = kept_in_store(profile, "kernels")
    return None if path is None else _kernels.setdefault((os.getpid(), path), KernelCache(path))


def _cuda(index: int) -> Cuda:
    """One for each GPU and process, so that engines recognise each other's buffers."""
    key = (os.getpid(), index)
    if key not in _opened:
        _opened[key] = Cuda(index)
    return _opened[key]
