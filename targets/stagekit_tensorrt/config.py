"""What the builder is told, as plain data: derived from a profile and the shapes of a graph's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stagekit.errors import UsageError
from stagekit.graph import TensorSpec
from stagekit.quant.scheme import SCHEME_OPTIONS
from stagekit.target import Option, Profile

OPTIONS: Mapping[str, Option] = {
    "builder": Option(str, "tensorrt, tensorrt-rtx, or auto (default): TensorRT where it is installed, else RTX"),
    "compute_capability": Option(str, "e.g. 86, or for RTX several as 80,86,89; empty: the GPU here, or RTX's default"),
    "hardware_compatibility": Option(str, "none (default), same_compute_capability or ampere_plus; TensorRT only"),
    "version_compatible": Option(bool, "plans that later versions of the runtime load as well"),
    "workspace_mib": Option(int, "limit of the builder's scratch memory; the GPU's own by default"),
    "optimization_level": Option(int, "0 (quick build) to 5 (long search); 3"),
    "verbosity": Option(str, "what a plan tells profilers: none, layer_names_only or detailed (default)"),
    "tf32": Option(bool, "let f32 products round to TF32's 10 bits; false"),
    "rest": Option(str, "what an int8 graph leaves in floating point: f32 (default), fp16 or bf16"),
    "shared": Option(bool, "weights become inputs: graphs of one structure share a plan, which is built once; false"),
    "timing_cache": Option(
        bool, "keep kernel timings, of RTX compiled kernels, in the store; true", affects_engine=False
    ),
    "time_limit": Option(int, "seconds that one build may take; 3600", affects_engine=False),
    **SCHEME_OPTIONS,
}

BUILDERS = ("auto", "tensorrt", "tensorrt-rtx")
BATCH = "batch"
"""The dimension that ranges; :data:`stagekit.graph.shapes.BATCH`, without importing onnx for it."""

COMPATIBILITY = ("none", "same_compute_capability", "ampere_plus")
VERBOSITY = ("none", "layer_names_only", "detailed")
RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)
"""The members of ``tensorrt_rtx.ComputeCapability``, version 1.7."""


@dataclass(frozen=True, slots=True)
class ShapeRange:
    """The sizes that a dynamic input may have, and the one to optimise for."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BuildConfig:
    """Everything that the builder is told beside the graph.

    Args:
        builder: one of :data:`BUILDERS`.
        compute_capabilities: e.g. ``(86, 89)``; empty for the GPU here or RTX's own default (Ampere and later).
        shapes: by input name, one for each input with a symbolic dimension: the optimization profile.
    """

    builder: str
    compute_capabilities: tuple[int, ...]
    shapes: Mapping[str, ShapeRange]
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    workspace_mib: int = 0
    optimization_level: int = 3
    verbosity: str = "detailed"
    tf32: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON data, as :mod:`stagekit_tensorrt.builder` reads it."""
        return {
            "builder": self.builder,
            "compute_capabilities": list(self.compute_capabilities),
            "shapes": {name: [list(r.least), list(r.usual), list(r.most)] for name, r in self.shapes.items()},
            "hardware_compatibility": self.hardware_compatibility,
            "version_compatible": self.version_compatible,
            "workspace_mib": self.workspace_mib,
            "optimization_level": self.optimization_level,
            "verbosity": self.verbosity,
            "tf32": self.tf32,
        }


def build_config(inputs: Sequence[TensorSpec], profile: Profile) -> BuildConfig:
    """The configuration for a graph with these inputs.

    The batch dimension ranges over the profile's sizes, optimised for the middle one. A graph that leaves any
    other dimension open gets no range for that input; :mod:`stagekit_tensorrt.lint` reports it.

    Raises:
        UsageError: an option's value is not one of those it may have.
    """
    options = profile.options
    level = int(options.get("optimization_level", 3))
    if not 0 <= level <= 5:
        raise UsageError(f"optimization_level must be 0 to 5, got {level}", where=f"profile {profile.name}")
    return BuildConfig(
        builder=profile.choice("builder", BUILDERS, "auto"),
        compute_capabilities=capabilities(profile),
        shapes={s.name: _range(s, profile.batch) for s in inputs if BATCH in s.shape and _bound(s)},
        hardware_compatibility=profile.choice("hardware_compatibility", COMPATIBILITY, "none"),
        version_compatible=bool(options.get("version_compatible", False)),
        workspace_mib=profile.count("workspace_mib", 0),
        optimization_level=level,
        verbosity=profile.choice("verbosity", VERBOSITY, "detailed"),
        tf32=bool(options.get("tf32", False)),
    )


def capabilities(profile: Profile) -> tuple[int, ...]:
    """The compute capabilities that a profile asks for, ascending; empty where it leaves that open.

    Raises:
        UsageError: not numbers such as 86.
    """
    text = str(profile.options.get("compute_capability", ""))
    words = [word.strip().replace(".", "") for word in text.split(",") if word.strip()]
    if not all(word.isdecimal() and 2 <= len(word) <= 3 for word in words):
        raise UsageError(
            f"compute_capability must be e.g. 86 or 80,86,89, got {text!r}", where=f"profile {profile.name}"
        )
    return tuple(sorted({int(word) for word in words}))


def float_precision(profile: Profile) -> str:
    """In what a graph computes where it does not compute in integers: ``f32``, ``fp16`` or ``bf16``.

    Raises:
        UsageError: the option ``rest`` says something else.
    """
    if profile.precision != "int8":
        return profile.precision
    return profile.choice("rest", ("f32", "fp16", "bf16"), "f32")


def _bound(spec: TensorSpec) -> bool:
    return all(isinstance(d, int) or d == BATCH for d in spec.shape)


def _range(spec: TensorSpec, batches: Sequence[int]) -> ShapeRange:
    sizes = (batches[0], batches[len(batches) // 2], batches[-1])
    least, usual, most = (spec.bind(batch=size).concrete() for size in sizes)
    return ShapeRange(least, usual, most)
