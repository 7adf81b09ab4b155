"""Engines as files: the same bytes each time, loaded anywhere alike, never when damaged or foreign."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from stagekit import targets
from stagekit.errors import EngineError
from stagekit.graph import Graph
from stagekit.target import EngineBlob, silent

from .conftest import Bench, buffers
from .graphs import GRAPHS, sample

Compiled = Callable[[str], tuple[Graph, EngineBlob]]


def digest(blob: EngineBlob) -> str:
    return hashlib.sha256(b"".join((blob.root / name).read_bytes() for name in blob.files)).hexdigest()


IN_A_FRESH_PROCESS = """
import hashlib, json, sys
from pathlib import Path
import numpy as np
from stagekit import targets
from stagekit.graph import TensorSpec, load
from stagekit.target import EngineBlob, HostBuffer, silent
from stagekit.targets import parse_profile

folder = Path(sys.argv[1])
facts = json.loads((folder / "facts.json").read_text())
profile = parse_profile(facts["profile"], "again", "facts.json")
target = targets.get(profile.target)
for name in facts["graphs"]:
    graph = load(folder / f"{name}.onnx")
    (folder / name).mkdir()
    again = target.compile(graph, graph.inputs, graph.outputs, profile, folder / name, silent)
    print(name, hashlib.sha256(b"".join((again.root / file).read_bytes() for file in again.files)).hexdigest())
inputs, outputs = (tuple(TensorSpec.from_dict(s) for s in facts[k]) for k in ("inputs", "outputs"))
blob = EngineBlob(Path(facts["root"]), tuple(facts["files"]), inputs, outputs, facts["metadata"])
engine = target.load(blob, profile)
array = np.load(folder / "input.npy")
(found,) = engine.lane().submit([HostBuffer(inputs[0].bind(batch=1), array)], 1).wait()
np.save(folder / "output.npy", found.to_host())
"""


def test_a_fresh_process_compiles_the_same_bytes_and_loads_the_files(
    bench: Bench, compiled: Compiled, tmp_path: Path
) -> None:
    graph, blob = compiled("residual")
    s = sample(graph, 1)
    for name in GRAPHS:
        compiled(name)[0].save(tmp_path / f"{name}.onnx")
    np.save(tmp_path / "input.npy", s.inputs[0])
    facts = {
        "graphs": list(reversed(GRAPHS)),  # in another order, so that what came before must not show
        "profile": {k: v for k, v in bench.profile.to_dict().items() if k != "name"},
        "root": str(blob.root),
        "files": blob.files,
        "metadata": dict(blob.metadata),
        "inputs": [spec.to_dict() for spec in blob.inputs],
        "outputs": [spec.to_dict() for spec in blob.outputs],
    }
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert dict(line.split() for line in run.stdout.splitlines()) == {n: digest(compiled(n)[1]) for n in GRAPHS}
    assert run.stderr == ""
    engine = bench.target.load(blob, bench.profile)
    (here,) = engine.lane().submit(buffers(engine.inputs, s.inputs), 1).wait()
    assert np.array_equal(np.load(tmp_path / "output.npy"), here.to_host())
    engine.close()


def test_compiling_leaves_nothing_but_the_engine(compiled: Compiled) -> None:
    _, blob = compiled("conv")
    assert {path.name for path in blob.root.iterdir()} == set(blob.files)
    json.dumps(dict(blob.metadata))


@pytest.fixture
def copied(compiled: Compiled, tmp_path: Path) -> EngineBlob:
    _, blob = compiled("conv")
    shutil.copytree(blob.root, tmp_path / "copy")
    return replace(blob, root=tmp_path / "copy")


def test_a_truncated_engine_is_refused(bench: Bench, copied: EngineBlob) -> None:
    path = copied.root / copied.files[0]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(EngineError, match="bytes") as caught:
        bench.target.load(copied, bench.profile)
    assert path.name in str(caught.value)
    assert caught.value.remedy


def test_a_missing_file_is_refused(bench: Bench, copied: EngineBlob) -> None:
    (copied.root / copied.files[-1]).unlink()
    with pytest.raises(EngineError, match="no file"):
        bench.target.load(copied, bench.profile)


@pytest.mark.parametrize("damage", ["half", "empty", "garbage"])
def test_bytes_that_the_vendor_cannot_read_are_an_engine_error(bench: Bench, copied: EngineBlob, damage: str) -> None:
    """The right size on record does not help: the vendor's own refusal is translated."""
    whole = (copied.root / copied.files[0]).read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, len(whole)).astype(np.uint8).tobytes()
    (copied.root / copied.files[0]).write_bytes(
        {"half": whole[: len(whole) // 2], "empty": b"", "garbage": noise}[damage]
    )
    sizes = [(copied.root / name).stat().st_size for name in copied.files]
    with pytest.raises(EngineError, match=r"damaged|record"):
        bench.target.load(replace(copied, metadata={**copied.metadata, "bytes": sizes}), bench.profile)


@pytest.mark.parametrize("key", ["toolchain", "device"])
def test_an_engine_made_elsewhere_is_refused(bench: Bench, copied: EngineBlob, key: str) -> None:
    foreign = replace(copied, metadata={**copied.metadata, key: "something else"})
    with pytest.raises(EngineError, match=f"{key} 'something else'"):
        bench.target.load(foreign, bench.profile)


def test_weights_beyond_one_protobuf_message_go_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is lowered here, since a graph of 2 GB takes too long."""
    monkeypatch.setattr("stagekit_onnxruntime.target.INLINE_LIMIT", 0)
    target, profile = targets.get("onnxruntime"), targets.load_profile("ort-f32")
    graph = GRAPHS["residual"]()
    blobs = []
    for folder in (tmp_path / "first", tmp_path / "second"):
        folder.mkdir()
        blobs.append(target.compile(graph, graph.inputs, graph.outputs, profile, folder, silent))
    assert blobs[0].files == ("engine.onnx", "engine.weights")
    assert {path.name for path in blobs[0].root.iterdir()} == set(blobs[0].files)
    assert digest(blobs[0]) == digest(blobs[1])
    s = sample(graph, 1)
    engine = target.load(blobs[0], profile)
    (found,) = engine.lane().submit(buffers(engine.inputs, s.inputs), 1).wait()
    assert np.array_equal(found.to_host(), s.outputs[0])
    engine.close()
    weights = blobs[0].root / "engine.weights"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"engine\.weights"):
        target.load(blobs[0], profile)


@pytest.mark.parametrize("name", GRAPHS)
def test_onnxruntimes_engine_gives_the_bits_of_the_graph_loaded_directly(name: str, tmp_path: Path) -> None:
    target, profile = targets.get("onnxruntime"), targets.load_profile("ort-f32")
    graph = GRAPHS[name]()
    s = sample(graph, 1)
    engine = target.load(target.compile(graph, graph.inputs, graph.outputs, profile, tmp_path, silent), profile)
    found = engine.lane().submit(buffers(engine.inputs, s.inputs), 1).wait()
    assert all(np.array_equal(f.to_host(), w) for f, w in zip(found, s.outputs, strict=True))
    engine.close()
