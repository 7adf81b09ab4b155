"""What the vendor's builders are called and what they do differently; everything else is the same code.

Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/api/migration/tensorrt-10x-to-11x-python-api.html
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Differences:
    """What one family of the vendor's builders does differently.

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
