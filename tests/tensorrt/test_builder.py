"""The builder against stand-ins that have exactly the names of the real TensorRT 10 and 11, and no others."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from stagekit_tensorrt import child
from stagekit_tensorrt.builder import build as builder_build
from stagekit_tensorrt.builder import processes
from stagekit_tensorrt.builder.vendors import BuildFailed, differences, import_vendor
from stagekit_tensorrt.config import BuildConfig, ShapeRange

NAMES = Path(__file__).with_name("names")
LAYERS = {"Layers": ["conv"], "Bindings": ["x"]}


class Severity(IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class Vendor:
    """``tensorrt`` of one major version; what its objects are told is in the mocks."""

    def __init__(self, major: int) -> None:
        listed = json.loads((NAMES / f"tensorrt-{major}.json").read_text(encoding="utf-8"))
        self.classes: dict[str, list[str]] = listed["classes"]
        self.module = ModuleType("tensorrt")
        self.module.__version__ = listed["version"]  # type: ignore[attr-defined]
        for name in listed["module"]:
            members = {n: f"{name}.{n}" for n in self.classes.get(name, ()) if n.isupper()}
            setattr(self.module, name, SimpleNamespace(**members))
        self.module.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)  # type: ignore[attr-defined]
        self.module.ILogger = type("ILogger", (), {"Severity": Severity})  # type: ignore[attr-defined]
        self.builder, self.config, self.parser, self.profile, self.cache, self.engine, runtime, inspector = map(
            self.mock,
            (
                *("Builder", "IBuilderConfig", "OnnxParser", "IOptimizationProfile", "ITimingCache"),
                *("ICudaEngine", "Runtime", "EngineInspector"),
            ),
        )
        self.builder.create_builder_config.return_value = self.config
        self.builder.create_optimization_profile.return_value = self.profile
        self.builder.build_serialized_network.return_value = b"plan"
        self.config.add_optimization_profile.return_value = 0
        self.config.create_timing_cache.return_value = self.config.get_timing_cache.return_value = self.cache
        self.cache.serialize.return_value = b"timings"
        runtime.deserialize_cuda_engine.return_value = self.engine
        self.engine.create_engine_inspector.return_value = inspector
        inspector.get_engine_information.return_value = json.dumps(LAYERS)
        self.module.Builder = lambda log: self.builder  # type: ignore[attr-defined]
        self.module.OnnxParser = lambda network, log: self.parser  # type: ignore[attr-defined]
        self.module.Runtime = lambda log: runtime  # type: ignore[attr-defined]

    def mock(self, name: str) -> Mock:
        """An object of a class; asking it for a name that the real one lacks is an AttributeError."""
        return Mock(spec_set=self.classes[name])


@pytest.fixture(params=[10, 11])
def vendor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Vendor:
    made = Vendor(request.param)
    monkeypatch.setitem(sys.modules, "tensorrt", made.module)
    return made


def build(folder: Path, config: BuildConfig, cache: Path | None = None) -> dict[str, Any]:
    (folder / "engine.onnx").write_bytes(b"onnx")
    return builder_build.build(child.write_request(folder, "engine", config, cache), lambda line: None)


def test_the_configuration_is_applied(vendor: Vendor, tmp_path: Path) -> None:
    shapes = {"x": ShapeRange((1, 3), (2, 3), (4, 3))}
    config = BuildConfig("auto", (86,), shapes, "ampere_plus", True, 64, 5, "layer_names_only")
    result = build(tmp_path, config)
    vendor.builder.create_network.assert_called_once_with(1 << 1)
    vendor.config.clear_flag.assert_called_once_with("BuilderFlag.TF32")
    vendor.config.set_flag.assert_called_once_with("BuilderFlag.VERSION_COMPATIBLE")
    vendor.config.set_memory_pool_limit.assert_called_once_with("MemoryPoolType.WORKSPACE", 64 << 20)
    vendor.profile.set_shape.assert_called_once_with("x", [1, 3], [2, 3], [4, 3])
    assert vendor.config.hardware_compatibility_level == "HardwareCompatibilityLevel.AMPERE_PLUS"
    assert vendor.config.profiling_verbosity == "ProfilingVerbosity.LAYER_NAMES_ONLY"
    assert vendor.config.builder_optimization_level == 5
    assert (tmp_path / "engine.plan").read_bytes() == b"plan"
    assert (result["builder"], result["bytes"], result["layers"]) == ("tensorrt", 4, LAYERS)
    assert json.loads((tmp_path / "engine.result.json").read_text()) == result


def test_timings_are_read_and_written_back(vendor: Vendor, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"earlier")
    build(tmp_path, BuildConfig("tensorrt", (), {}), cache)
    vendor.config.create_timing_cache.assert_called_once_with(b"earlier")
    assert cache.read_bytes() == b"timings"


def test_timings_that_do_not_fit_count_for_nothing(vendor: Vendor, tmp_path: Path) -> None:
    cache = tmp_path / "timings"
    cache.write_bytes(b"of another GPU")
    vendor.config.set_timing_cache.side_effect = [False, True]
    build(tmp_path, BuildConfig("tensorrt", (), {}), cache)
    assert [call.args for call in vendor.config.create_timing_cache.call_args_list] == [(b"of another GPU",), (b"",)]


def test_tf32_is_on_where_it_is_asked_for(vendor: Vendor, tmp_path: Path) -> None:
    build(tmp_path, BuildConfig("tensorrt", (), {}, tf32=True))
    vendor.config.set_flag.assert_called_once_with("BuilderFlag.TF32")
    vendor.config.clear_flag.assert_not_called()


def test_the_parsers_errors_name_nodes(vendor: Vendor, tmp_path: Path) -> None:
    error = vendor.mock("ParserError")
    error.node_name.return_value, error.node_operator.return_value = "conv_3", "Conv"
    error.desc.return_value = "weights are missing\nand much more"
    vendor.parser.parse_from_file.return_value = False
    vendor.parser.num_errors, vendor.parser.get_error.return_value = 1, error
    with pytest.raises(BuildFailed, match=r"^conv_3 \(Conv\): weights are missing$"):
        build(tmp_path, BuildConfig("tensorrt", (), {}))


def test_a_refusal_is_an_error(vendor: Vendor, tmp_path: Path) -> None:
    vendor.builder.build_serialized_network.return_value = None
    with pytest.raises(BuildFailed, match="gave no reason"):
        build(tmp_path, BuildConfig("tensorrt", (), {}))


def test_a_version_that_nobody_has_looked_at_is_refused() -> None:
    with pytest.raises(BuildFailed, match=r"tensorrt 12.0.1 is not one of .*tensorrt 10, tensorrt 11"):
        differences("tensorrt", "12.0.1")


def test_auto_prefers_tensorrt(vendor: Vendor) -> None:
    assert import_vendor("auto") == ("tensorrt", vendor.module)


def test_a_library_that_does_not_load_is_a_package_that_does_not_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So ``auto`` goes on to the next, and a build ends in what to install."""
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: no such file')")
    (tmp_path / "tensorrt_rtx.py").write_text("__version__ = '1.7'")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(ImportError, match=r"libnvinfer\.so\.10"):
        import_vendor("tensorrt")
    assert import_vendor("auto")[0] == "tensorrt-rtx"
    del sys.modules["tensorrt_rtx"]


@pytest.mark.parametrize(("builder", "loaded"), [("tensorrt-rtx", True), ("tensorrt", False), ("auto", False)])
def test_a_process_that_forks_loads_no_vendor_that_may_touch_the_driver(
    builder: str, loaded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA does not outlive a fork. Where both are installed, ``auto`` means TensorRT."""
    for name in ("tensorrt", "tensorrt_rtx"):
        (tmp_path / f"{name}.py").write_text(f"from pathlib import Path; Path({str(tmp_path / name)!r}).touch()")
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("sys.stdin", [])
    processes.serve(builder)
    assert (tmp_path / "tensorrt_rtx").exists() == loaded
    assert not (tmp_path / "tensorrt").exists()


def test_the_second_gpu_is_the_first_that_the_child_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert child._seeing(1)["CUDA_VISIBLE_DEVICES"] == "1"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert child._seeing(1)["CUDA_VISIBLE_DEVICES"] == "5"
    assert child._seeing(0)["CUDA_VISIBLE_DEVICES"] == "3,5"
