"""Real engines, built by TensorRT-RTX on a machine without a GPU."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stagekit_tensorrt import TensorRtTarget, child
from stagekit_tensorrt.typed import Plan

from stagekit.build.kit import emit_kit
from stagekit.errors import CompileError, EngineError, TargetUnavailable
from stagekit.graph import Graph
from stagekit.target import EngineBlob, Profile, silent

from . import nets
from .conftest import MakeProfile

CAPABILITIES = ("86", "89", "120")
NETS: dict[str, tuple[Callable[[], Graph], tuple[str, ...]]] = {
    "conv": (nets.conv, ("f32", "fp16", "bf16")),
    "stem": (nets.stem, ("f32", "fp16")),
    "attention": (nets.attention, ("f32", "fp16", "bf16")),
    "labels": (nets.labels, ("fp16",)),
    "quantised": (nets.quantised, ("int8",)),
}
TARGET = TensorRtTarget()


def build(graph: Graph, profile: Profile, folder: Path) -> EngineBlob:
    return TARGET.compile(graph, graph.inputs, graph.outputs, profile, folder, silent)


@pytest.mark.parametrize(("name", "precision"), [(n, p) for n, (_, ps) in NETS.items() for p in ps])
def test_it_builds_for_a_range_of_batches(rtx: MakeProfile, name: str, precision: str, tmp_path: Path) -> None:
    graph = NETS[name][0]()
    blob = build(graph, rtx(precision, (1, 4), compute_capability="86"), tmp_path)
    assert blob.files == ("engine.plan",)
    assert [path.name for path in tmp_path.iterdir()] == ["engine.plan"], "nothing else is left behind"
    assert blob.metadata["bytes"] == [(tmp_path / "engine.plan").stat().st_size]
    assert blob.metadata["builder"] == "tensorrt-rtx"
    counts = (blob.metadata["quantize_nodes"], blob.metadata["dequantize_nodes"])
    assert counts == ((1, 2) if name == "quantised" else (0, 0))
    assert any(line.startswith("BUILT") for line in blob.report["log"])


def test_each_capability_has_a_plan_of_its_own_and_one_can_serve_several(rtx: MakeProfile, tmp_path: Path) -> None:
    digests = set()
    for asked in (*CAPABILITIES, ",".join(CAPABILITIES)):
        folder = tmp_path / asked
        folder.mkdir()
        blob = build(nets.conv(), rtx("fp16", compute_capability=asked), folder)
        digests.update(blob.metadata["sha256"])
        assert blob.metadata["device"] == "+".join(f"sm{number}" for number in asked.split(","))
    assert len(digests) == 4


@pytest.mark.parametrize(("graph", "precision"), [(nets.attention, "fp16"), (nets.quantised, "int8")])
def test_fresh_processes_build_the_same_bytes(
    rtx: MakeProfile, graph: Callable[[], Graph], precision: str, tmp_path: Path
) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from stagekit.target import Profile, silent; from stagekit.graph import load\n"
        "from stagekit_tensorrt import TensorRtTarget\n"
        "graph = load(Path(sys.argv[1])); options = {'builder': 'tensorrt-rtx', 'compute_capability': '89'}\n"
        "profile = Profile('p', 'tensorrt', 'GPU', sys.argv[3], (1, 4), options)\n"
        "folder = Path(sys.argv[2]); folder.mkdir()\n"
        "blob = TensorRtTarget().compile(graph, graph.inputs, graph.outputs, profile, folder, silent)\n"
        "print(*blob.metadata['sha256'])"
    )
    graph().save(tmp_path / "graph.onnx")
    found = []
    for seed in ("1", "2"):
        command = [sys.executable, "-c", program, str(tmp_path / "graph.onnx"), str(tmp_path / seed), precision]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": seed}, check=False
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] == found[1] != ""


def test_what_was_built_before_does_not_show_in_the_bytes(rtx: MakeProfile, tmp_path: Path) -> None:
    """Builds are forked from one process, and a kit's come one after the other."""
    digests = []
    for index, graph in enumerate((nets.attention, nets.conv, nets.attention)):
        (tmp_path / str(index)).mkdir()
        digests.append(build(graph(), rtx("fp16", compute_capability="89"), tmp_path / str(index)).metadata["sha256"])
    assert digests[0] == digests[2] != digests[1]


def test_the_parsers_complaint_names_our_node(rtx: MakeProfile, tmp_path: Path) -> None:
    """The lint would have found it; here the file goes to the parser all the same."""
    planned = Plan(nets.quantised(zero=3), _config(rtx("int8", (1, 2), compute_capability="86"), nets.quantised()))
    planned.graph.save(tmp_path / "engine.onnx")
    request = child.write_request(tmp_path, "engine", planned.config)
    with pytest.raises(CompileError, match=r"real_node \(DequantizeLinear\): .*zero point"):
        child.run(request, silent)


def _config(profile: Profile, graph: Graph) -> Any:
    from stagekit_tensorrt.config import build_config

    return build_config(graph.inputs, profile)


def test_the_builders_own_words_come_through(rtx: MakeProfile, tmp_path: Path) -> None:
    """A dynamic input without a range; the lint would have found it."""
    from stagekit_tensorrt.config import BuildConfig

    nets.conv().save(tmp_path / "engine.onnx")
    request = child.write_request(tmp_path, "engine", BuildConfig("tensorrt-rtx", (86,), {}))
    with pytest.raises(CompileError, match="optimization profile"):
        child.run(request, silent)


def test_a_capability_that_rtx_lacks_is_refused_with_those_it_has(rtx: MakeProfile) -> None:
    with pytest.raises(TargetUnavailable, match="75, 80, 86, 89, 120, 121, not 90"):
        TARGET.supports(nets.conv(), rtx(compute_capability="90"))


def test_a_plan_is_not_loaded_where_there_is_no_gpu(rtx: MakeProfile, tmp_path: Path) -> None:
    if TARGET.probe().run:
        pytest.skip("there is a GPU here")
    profile = rtx("fp16", compute_capability="86")
    blob = build(nets.conv(), profile, tmp_path)
    with pytest.raises(TargetUnavailable, match="no GPU on this machine"):
        TARGET.load(blob, profile)
    (tmp_path / "engine.plan").write_bytes(b"damaged")
    with pytest.raises(EngineError, match="bytes"):
        TARGET.load(blob, profile)


def test_the_probe_says_what_can_be_done_here(rtx: MakeProfile) -> None:
    found = TARGET.probe()
    assert found.build
    assert found.run or "no NVIDIA GPU" in found.reason


def test_a_kit_builds_what_compile_builds(rtx: MakeProfile, zoo: Any, stagekit: Any, tmp_path: Path) -> None:
    """Written, built by its own script, imported: then compiling finds every engine in the store."""
    from stagekit_tensorrt.import_kit import import_kit

    from stagekit.store import Store

    profile = tmp_path / "mine.toml"
    profile.write_text(
        'target = "tensorrt"\ndevice = "GPU"\nprecision = "fp16"\n[options]\nbuilder = "tensorrt-rtx"\n'
        'compute_capability = "89"\n'
    )
    kit = tmp_path / "kit"
    emit_kit([zoo.stages, zoo.tasks["land"]], kit, profile=str(profile))
    subprocess.run([sys.executable, "-m", "builder", "."], cwd=kit, check=True, capture_output=True)
    store = Store.default()
    import_kit(kit, store, silent)
    compiled = stagekit("compile", zoo.stages, zoo.tasks["land"], "--profile", profile, "--json")
    assert compiled.code == 0, compiled.err
    assert [engine["cached"] for engine in compiled.json["engines"]] == [True] * 6


def test_another_task_builds_its_own_graphs_alone(rtx: MakeProfile, zoo: Any, stagekit: Any) -> None:
    first = stagekit("compile", zoo.stages, zoo.tasks["land"], "--profile", "trt-f32", "--json")
    second = stagekit("compile", zoo.stages, zoo.tasks["sea"], "--profile", "trt-f32", "--json")
    assert (first.code, second.code) == (0, 0), first.err + second.err
    assert [e["graph"] for e in second.json["engines"] if not e["cached"]] == ["sea/spm0", "sea/head"]


def test_a_runtimes_complaints_are_kept_and_not_printed(rtx: MakeProfile, capfd: pytest.CaptureFixture[str]) -> None:
    """Also those of a second runtime when the first, whose logger TensorRT may have kept, is gone."""
    from stagekit_tensorrt.installed import vendor
    from stagekit_tensorrt.vendor_log import last_words, vendor_log

    trt, _ = vendor("tensorrt-rtx")
    first = trt.Runtime(vendor_log(trt))
    second = trt.Runtime(vendor_log(trt))
    del first
    gc.collect()
    vendor_log(trt).errors.clear()
    assert second.deserialize_cuda_engine(b"no plan at all" * 10) is None
    assert len(last_words(vendor_log(trt))) > 10
    assert capfd.readouterr() == ("", "")


def test_a_plan_that_rtx_finds_invalid_is_refused_with_its_reason(rtx: MakeProfile, tmp_path: Path) -> None:
    from stagekit_tensorrt.installed import vendor
    from stagekit_tensorrt.loading import _deserialise

    path = tmp_path / "engine.plan"
    path.write_bytes(b"no plan at all" * 10)
    with pytest.raises(EngineError, match=r"invalid here \(malformed engine\)"):
        _deserialise(*vendor("tensorrt-rtx"), path, version_compatible=False)
