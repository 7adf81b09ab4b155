"""Torch backbones through both exporters: the same backbone, cut into a chain that computes what it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from stagekit.bundle import StagesManifest, read_graph, read_manifest
from stagekit.models.backbone import Backbone
from stagekit.models.identity import backbone_id
from stagekit.partition.chain import stage_names
from stagekit.partition.partition import partition_module
from stagekit.partition.verify import run_file, verify

Exporter = Literal["dynamo", "torchscript"]
Bundle = Callable[..., Path]
Tiny = Callable[..., Backbone]

SIZES = {"cnn": (48, 40), "vit": (64, 40)}


def manifest(path: Path) -> StagesManifest:
    return read_manifest(path, StagesManifest)


def silent(_: str) -> None:
    pass


@pytest.mark.parametrize("exporter", ["dynamo", "torchscript"])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_chain_of_files_computes_what_torch_does(kind: str, exporter: Exporter, bundle: Bundle, tiny: Tiny) -> None:
    path, backbone = bundle(kind, exporter), tiny(kind)
    facts = manifest(path)
    assert [s.boundary.name for s in facts.stages] == [b.name for b in backbone.boundaries]
    assert facts.export_error is not None
    assert facts.export_error < 1e-5
    frames = np.random.default_rng(3).integers(0, 256, (3, *backbone.size, 3), dtype=np.uint8)
    with torch.inference_mode():
        expected = backbone(torch.from_numpy(frames))
    values = [frames]
    for stage, feature in zip(facts.stages, expected, strict=True):
        given = run_file(path / stage.graph, values)
        values = [given[t.name] for t in stage.boundary.tensors]
        scale = float(feature.abs().max())
        assert np.abs(values[0] - feature.numpy()).max() / scale < 1e-5
    assert all(e.ok for e in verify(path, progress=silent))


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_the_manifest_says_what_the_backbone_is(kind: str, bundle: Bundle, tiny: Tiny) -> None:
    path, backbone = bundle(kind), tiny(kind)
    facts = manifest(path)
    assert facts.backbone.id == backbone_id(backbone)
    assert str(facts.frame.spec) == f"frames: uint8 [batch x {backbone.size[0]} x {backbone.size[1]} x 3] NHWC"
    for stage, info in zip(facts.stages, backbone.boundaries, strict=True):
        height, width = info.grid(*backbone.size)
        tokens = (info.prefix + height * width, info.channels)
        expected = ("batch", *tokens) if info.kind == "tokens" else ("batch", info.channels, height, width)
        assert stage.boundary.spec.shape == expected
        assert stage.boundary.spec.layout == ("NTC" if info.kind == "tokens" else "NCHW")
        assert stage.boundary.grid == (height, width)
        assert stage.boundary.prefix == (info.prefix if info.kind == "tokens" else None)
        assert stage.boundary.channels == info.channels
    assert sum(s.macs for s in facts.stages) == facts.uncut.macs
    weights = sum(p.numel() for p in backbone.parameters())
    assert 0.9 * weights < facts.uncut.parameters < 1.1 * weights
    assert (path / facts.weight_file).stat().st_size < 2 * 4 * weights + 4096 * 99


@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_one_backbone_whatever_its_exporter_and_size(kind: str, bundle: Bundle) -> None:
    same = [manifest(p) for p in (bundle(kind), bundle(kind, "dynamo"), bundle(kind, "torchscript", SIZES[kind]))]
    assert len({m.backbone.id for m in same}) == 1
    assert len({m.stages[-1].fingerprint for m in same}) >= 2  # graphs differ where sizes do
    assert manifest(bundle(kind, seed=1)).backbone.id != same[0].backbone.id


def test_the_same_backbone_partitioned_again_is_the_same_graph(bundle: Bundle, tiny: Tiny, tmp_path: Path) -> None:
    again = partition_module(tiny("cnn"), tmp_path / "again.stages", weights="seed 0", exporter="torchscript")
    assert [s.fingerprint for s in again.stages] == [s.fingerprint for s in manifest(bundle("cnn")).stages]
    assert again.name == "again"


def test_partitioning_leaves_the_backbone_as_it_was(tiny: Tiny, tmp_path: Path) -> None:
    backbone = tiny("vit")
    before = backbone_id(backbone)
    partition_module(backbone, tmp_path / "x.stages", weights="seed 0", exporter="torchscript")
    assert backbone_id(backbone) == before


def test_weights_are_stored_once_for_stages_and_uncut_model(bundle: Bundle) -> None:
    path = bundle("cnn")
    facts = manifest(path)
    stages = [read_graph(path, s) for s in facts.stages]
    uncut = read_graph(path, facts.uncut)
    large = {h for g in stages for n, h in g.tensor_hashes.items() if n in g.body.initializers}
    assert large == {h for n, h in uncut.tensor_hashes.items() if n in uncut.body.initializers}
    assert sorted(p.name for p in path.iterdir()) == sorted(
        [*(s.graph for s in facts.stages), "uncut.onnx", "manifest.json", facts.weight_file]
    )


@pytest.mark.parametrize(
    ("boundaries", "names"),
    [
        (["stem", "stage3.7"], ["stem", "stage3.7"]),
        (["/backbone/Add_1_output_0", "stage1"], ["segment0", "stage1"]),
        (["uncut", "UNCUT", "Uncut"], ["segment0", "segment1", "segment2"]),
        (["a", "A"], ["a", "segment1"]),
        (["segment1", "a/b"], ["segment1", "cut1"]),
        (["x" * 300, "..", "a..b", "é"], ["segment0", "segment1", "segment2", "segment3"]),
    ],
)
def test_stages_are_named_after_their_boundaries_where_files_can_be(boundaries: list[str], names: list[str]) -> None:
    assert stage_names(boundaries) == names
