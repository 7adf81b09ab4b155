"""Every name of TensorRT's that the target's code touches is there in the real bindings of 10.x, 11.x and RTX."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stagekit_tensorrt

SOURCES = sorted(Path(str(stagekit_tensorrt.__file__)).parent.rglob("*.py"))
LISTS = sorted(Path(__file__).with_name("names").glob("*.json"))

MODULE = "module"
MADE_BY = {
    ("Builder", "create_network"): "INetworkDefinition",
    ("Builder", "create_builder_config"): "IBuilderConfig",
    ("Builder", "create_optimization_profile"): "IOptimizationProfile",
    ("Builder", "build_serialized_network"): "IHostMemory",
    ("IBuilderConfig", "create_timing_cache"): "ITimingCache",
    ("IBuilderConfig", "get_timing_cache"): "ITimingCache",
    ("OnnxParser", "get_error"): "ParserError",
    ("Runtime", "deserialize_cuda_engine"): "ICudaEngine",
    ("ICudaEngine", "create_engine_inspector"): "EngineInspector",
    ("ICudaEngine", "create_execution_context"): "IExecutionContext",
    ("ICudaEngine", "create_runtime_config"): "IRuntimeConfig",
    ("IRuntimeConfig", "create_runtime_cache"): "IRuntimeCache",
}
"""The class of what a method gives back."""

KNOWN_AS = {
    "trt": MODULE,
    "options": "IBuilderConfig",
    "network": "INetworkDefinition",
    "vendor_builder": "Builder",
    "vendor_engine": "ICudaEngine",
    "context": "IExecutionContext",
    "runtime": "Runtime",
    "runtime_cache": "IRuntimeCache",
}
"""What a parameter or field of that name is, in the files that talk to TensorRT."""

TALKS_TO_VENDOR = {"build.py", "engine.py", "kernel_cache.py", "layers.py", "loading.py", "vendor_log.py"}

RTX_ONLY = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    (MODULE, "ComputeCapability"),
    ("Runtime", "get_engine_validity"),
    (MODULE, "EngineValidity"),
    ("EngineValidity", "INVALID"),
    (MODULE, "EngineInvalidityDiagnostics"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
    ("IRuntimeCache", "deserialize"),
    ("IRuntimeCache", "serialize"),
}
"""Reached only where the table of differences says so."""


def touched() -> set[tuple[str, str]]:
    """All (class, attribute) pairs in the target's sources."""
    found: set[tuple[str, str]] = set()
    for path in SOURCES:
        if path.name in TALKS_TO_VENDOR:
            for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(function, ast.FunctionDef | ast.ClassDef):
                    found.update(_in_scope(function))
    return found


def _in_scope(scope: ast.FunctionDef | ast.ClassDef) -> Iterator[tuple[str, str]]:
    known = dict(KNOWN_AS)
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            kind = _class_of(node.value, known)
            if kind:
                known[node.targets[0].id] = kind
    for node in ast.walk(scope):
        if isinstance(node, ast.Attribute):
            owner = _class_of(node.value, known)
            if owner and not node.attr.startswith("__"):
                yield owner, node.attr
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            pass  # computed names are checked by test_every_enum_member_that_a_profile_can_name_exists


def _class_of(node: ast.expr, known: dict[str, str]) -> str | None:
    """The class of an expression, as far as it can be told."""
    if isinstance(node, ast.Name):
        return known.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _class_of(node.value, known)
        if owner == MODULE:
            return node.attr
        return (
            KNOWN_AS.get(node.attr)
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "engine", "lane")
            else owner
        )
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute):
            owner = _class_of(node.func.value, known)
            return node.func.attr if owner == MODULE else MADE_BY.get((str(owner), node.func.attr))
        return None
    return None


def has(names: dict[str, Any], owner: str, attribute: str) -> bool:
    if owner == MODULE:
        return attribute in names["module"] or attribute == "__version__"
    return attribute in names["classes"].get(owner, ())


def test_the_walk_finds_the_calls_that_matter() -> None:
    """If it found nothing, the next test would say nothing."""
    assert {
        ("OnnxParser", "parse_from_file"),
        ("IBuilderConfig", "set_memory_pool_limit"),
        ("IOptimizationProfile", "set_shape"),
        ("Builder", "build_serialized_network"),
        ("ITimingCache", "serialize"),
        ("Runtime", "engine_host_code_allowed"),
        ("IRuntimeConfig", "set_runtime_cache"),
        ("IRuntimeCache", "deserialize"),
        ("Runtime", "deserialize_cuda_engine"),
        ("IExecutionContext", "execute_async_v3"),
        ("IExecutionContext", "set_tensor_address"),
        ("EngineInspector", "get_engine_information"),
        (MODULE, "IProfiler"),
        ("BuilderFlag", "TF32"),
    } <= touched()


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_name_exists(path: Path) -> None:
    names = json.loads(path.read_text(encoding="utf-8"))
    wanted = touched() if "rtx" in path.stem else touched() - RTX_ONLY
    missing = sorted(pair for pair in wanted if not has(names, *pair))
    assert not missing, f"{path.stem} ({names['version']}) has not {missing}"


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
def test_every_enum_member_that_a_profile_can_name_exists(path: Path) -> None:
    from stagekit_tensorrt.config import COMPATIBILITY, RTX_CAPABILITIES, VERBOSITY

    classes = json.loads(path.read_text(encoding="utf-8"))["classes"]
    assert {word.upper() for word in VERBOSITY} <= set(classes["ProfilingVerbosity"])
    assert {word.upper() for word in COMPATIBILITY} <= set(classes["HardwareCompatibilityLevel"])
    if "rtx" in path.stem:
        members = {name for name in classes["ComputeCapability"] if name.startswith("SM")}
        assert members == {f"SM{number}" for number in RTX_CAPABILITIES}


def test_the_lists_cover_the_table_of_differences() -> None:
    from stagekit_tensorrt.builder.vendors import DIFFERENCES

    assert {path.stem for path in LISTS} == {f"{builder}-{major}" for builder, major in DIFFERENCES}
