"""A tiny CNN and a tiny ViT of the registered families, their bundles by exporter and size, and small ONNX files."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from torch import Tensor, nn

from stagekit.models import registry
from stagekit.models.backbone import Backbone, BoundaryInfo, Preprocessing
from stagekit.models.vit import ViT
from stagekit.partition.partition import partition_module

Exporter = Literal["dynamo", "torchscript"]
Size = tuple[int, int]
Bundle = Callable[..., Path]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads only get into each other's way in networks as small as these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


VIT = ViT("tiny_vit", 24, 3, 2, 8, grid=4, cuts=("unit1",), size=(32, 48), layer_scale=True)


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def _cnn(size: Size | None, seed: int) -> Backbone:
    torch.manual_seed(seed)

    def down(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())

    segments = [
        nn.Sequential(OrderedDict(stem=down(3, 16))),
        nn.Sequential(OrderedDict(stage1_1=down(16, 24), stage1_2=Residual(24))),
        nn.Sequential(OrderedDict(stage2_1=down(24, 32), stage2_2=Residual(32))),
    ]
    infos = [BoundaryInfo("stem", 16, 2), BoundaryInfo("stage1", 24, 4), BoundaryInfo("stage2", 32, 8)]
    bytes_ = Preprocessing((120.0, 115.0, 105.0), (60.0, 58.0, 57.0))
    return Backbone({"name": "tiny_cnn", "revision": 1}, bytes_, infos, segments, size or (32, 48))


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Backbone]:
    """``tiny("cnn", size=None, seed=0)``: a frozen backbone with statistics and scales that matter."""

    def tiny(kind: str, size: Size | None = None, seed: int = 0) -> Backbone:
        backbone = _cnn(size, seed) if kind == "cnn" else registry.build(VIT, size=size, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
        return backbone.eval().requires_grad_(False)

    return tiny


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., Backbone]) -> Bundle:
    """``bundle("cnn", exporter="dynamo", size=None, seed=0)``: made once a run; tests copy what they change."""
    made: dict[Any, Path] = {}

    def bundle(kind: str, exporter: Exporter = "torchscript", size: Size | None = None, seed: int = 0) -> Path:
        key = (kind, exporter, size, seed)
        if key not in made:
            path = tmp_path_factory.mktemp(kind) / f"{kind}.stages"
            partition_module(tiny(kind, size, seed), path, weights=f"seed {seed}", exporter=exporter)
            made[key] = path
        return made[key]

    return bundle


RESIDUAL = """g (float[N,3,H,W] image) => (float[N,5] scores)
{ a = Conv<pads = [1, 1, 1, 1]>(image, w1)
  b = Relu(a)
  c = Conv<pads = [1, 1, 1, 1]>(b, w2)
  d = Add(c, b)
  e = Relu(d)
  f = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(e, w2)
  g = GlobalAveragePool(f)
  h = Flatten(g)
  logits = Gemm(h, w3)
  scores = Softmax(logits) }"""


@pytest.fixture(scope="session")
def save_onnx() -> Callable[..., Path]:
    """Writes a small network with a residual; ``text`` and ``weights`` replace what it is made of."""

    def save(path: Path, text: str = RESIDUAL, opset: int = 18, **weights: np.ndarray[Any, Any]) -> Path:
        generator = np.random.default_rng(0)
        shapes = {"w1": (4, 3, 3, 3), "w2": (4, 4, 3, 3), "w3": (4, 5)}
        given = {k: generator.normal(0, 0.5, s).astype(np.float32) for k, s in shapes.items() if k in text} | weights
        proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]>' + text)
        proto.graph.initializer.extend(onnx.numpy_helper.from_array(v, k) for k, v in given.items())
        path.write_bytes(proto.SerializeToString())
        return path

    return save
