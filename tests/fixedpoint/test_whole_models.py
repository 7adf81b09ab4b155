"""Whole networks: the three interpreters agree on real weights and the example pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from stagekit_fixedpoint import blas, reference
from stagekit_fixedpoint.dense import quantise
from stagekit_fixedpoint.device import load_device
from stagekit_fixedpoint.engine import to_stored
from stagekit_fixedpoint.fast import Fast
from stagekit_fixedpoint.layers import layers_of
from stagekit_fixedpoint.lowering import lower
from stagekit_fixedpoint.networks import resnet, resnet_layers
from stagekit_fixedpoint.program import Array, Program

from stagekit.graph import Graph
from stagekit.graph.simplify import simplify
from stagekit.quant.scheme import scheme_of
from stagekit.targets import load_profile

pytestmark = pytest.mark.slow

IMAGES = 5
PICTURES = Path(__file__).parents[2] / "examples" / "pictures"


def lowered(graph: Graph, device_name: str, samples: list[Mapping[str, Array]]) -> Program:
    device = load_device(device_name)
    result = lower(quantise(graph, samples, scheme_of(load_profile(device_name))), device)
    assert result.problems == ()
    assert result.share == 1.0
    return result.program


def all_agree(program: Program, samples: list[Mapping[str, Array]]) -> Fast:
    fast = Fast(program, 2)
    (name,) = program.inputs
    for sample in samples:
        stored = {name: to_stored(next(iter(sample.values())), program.tensors[name])}
        wanted = reference.run(program, {name: stored[name].astype(np.int64)})
        for found in (fast.run(stored), blas.run(program, stored)):
            assert all(np.array_equal(found[n], wanted[n]) for n in program.outputs)
    return fast


def noise(count: int, *shape: int) -> list[Mapping[str, Array]]:
    random = np.random.default_rng(0)
    return [{"x": random.standard_normal((1, *shape)).astype(np.float32)} for _ in range(count)]


@pytest.mark.parametrize("device", ["dpu-b4096-zcu104", "hls-16-6", "tflite-int8"])
def test_resnet50_agrees_in_all_three(device: str) -> None:
    program = lowered(resnet(50, "v1.5"), device, noise(1, 3, 224, 224))
    fast = all_agree(program, noise(2, 3, 224, 224))
    if device.startswith("dpu"):
        assert {c.path for c in fast.choices if c.operator in ("Convolution", "Add", "Linear", "MaxPool")} == {"kernel"}


def test_the_layer_table_is_that_of_the_lowered_network() -> None:
    program = lowered(resnet(50, "v1.5"), "dpu-b4096-zcu104", noise(1, 3, 224, 224))
    wanted = [(x.macs, x.input_bytes, x.output_bytes, x.weight_bytes) for x in resnet_layers(50, "v1.5")]
    assert [(x.macs, x.input_bytes, x.output_bytes, x.weight_bytes) for x in layers_of(program)] == wanted


def photographs(size: int) -> list[Array]:
    """Crops of the example pictures as frames: bytes, channels last, a batch of one."""
    from PIL import Image

    paths = sorted(p for p in PICTURES.rglob("*") if p.suffix in (".jpg", ".png"))
    if not paths:
        pytest.skip(f"no pictures under {PICTURES}")
    found = []
    for index in range(IMAGES):
        image = Image.open(paths[index % len(paths)]).convert("RGB")
        side = min(image.size)
        left = (image.width - side) * (index // len(paths)) // max(IMAGES // len(paths), 1)
        square = image.crop((left, 0, left + side, side)).resize((size, size))
        found.append(np.asarray(square)[None])
    return found


@pytest.mark.parametrize("name", ["efficientnet_lite0", "vit_s14"])
def test_real_backbones_agree_in_all_three(name: str) -> None:
    """On their packaged weights; every boundary is compared."""
    pytest.importorskip("torch")
    from stagekit.models.registry import create
    from stagekit.models.weights import find_packaged_weights
    from stagekit.partition.from_torch import export_backbone

    backbone = create(name, weights=find_packaged_weights(name), size=(224, 224))
    graph = simplify(export_backbone(backbone, 224, 224))
    samples: list[Mapping[str, Array]] = [{"frames": frame} for frame in photographs(224)]
    all_agree(lowered(graph, "dpu-b4096-zcu104", samples[:2]), samples)
