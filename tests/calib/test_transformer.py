"""A transformer from record to engines: attention's weighing in floats, LayerNorms evened out, everything else int8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from stagekit_calib.chain import Chain, OrtGraph, execute, open_chain
from stagekit_calib.readers import from_path
from stagekit_calib.run import calibrate

from stagekit.build.compile import compile
from stagekit.partition.foreign import partition_onnx
from stagekit.partition.from_onnx import Normalisation
from stagekit.quant.error import sqnr
from stagekit.quant.record import save
from stagekit.quant.scheme import scheme_of
from stagekit.quant.stages import quantise_stages
from stagekit.store import Store
from stagekit.targets import load_profile

from .conftest import picture

BLOCK = """<ir_version: 8, opset_import: ["" : 17]>
block (float[N,3,32,32] image) => (float[N,16,4,4] late)
{
  patches = Conv<strides = [8, 8]>(image, wp)
  columns = Reshape(patches, to_columns)
  tokens = Transpose<perm = [0, 2, 1]>(columns)
  normed = LayerNormalization(tokens, gain, offset)
  queries = MatMul(normed, wq)
  keys = MatMul(normed, wk)
  values = MatMul(normed, wv)
  turned = Transpose<perm = [0, 2, 1]>(keys)
  scores = MatMul(queries, turned)
  shares = Softmax(scores)
  seen = MatMul(shares, values)
  middle = Add(tokens, seen)
  again = LayerNormalization(middle, gain, offset)
  wide = MatMul(again, w1)
  active = Relu(wide)
  narrow = MatMul(active, w2)
  sum = Add(middle, narrow)
  back = Transpose<perm = [0, 2, 1]>(sum)
  late = Reshape(back, to_map)
}"""
SHAPES = {"wp": (16, 3, 8, 8), "wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "w1": (16, 32), "w2": (32, 16)}


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("transformer")
    rng = np.random.default_rng(0)
    weights = {n: rng.normal(size=s) / np.sqrt(np.prod(s) / max(s[0], s[-1])) for n, s in SHAPES.items()}
    weights |= {"gain": np.ones(16), "offset": np.zeros(16)}
    weights["gain"][3] = 20.0  # one channel that reaches far, as trained transformers have
    for name in ("wq", "wk", "wv", "w1"):
        weights[name][3] /= 20.0
    constants = {n: w.astype(np.float32) for n, w in weights.items()}
    constants |= {"to_columns": np.array([-1, 16, 16]), "to_map": np.array([-1, 16, 4, 4])}
    model = parser.parse_model(BLOCK)
    model.graph.initializer.extend(numpy_helper.from_array(w, n) for n, w in constants.items())
    onnx.save(model, folder / "block.onnx")
    grey = Normalisation((127.0,) * 3, (60.0,) * 3)
    partition_onnx(folder / "block.onnx", folder / "block.stages", at=[["middle"]], normalisation=grey)
    return folder / "block.stages"


def last(chain: Chain, images: list[Any], optimise: bool = True) -> Any:
    graphs = {label: OrtGraph(graph, optimise=optimise) for label, graph in chain.graphs.items()}
    given = [execute(chain, x, str(i), lambda c, v: graphs[c.label].run(v)[0]) for i, x in enumerate(images)]
    return np.concatenate([values for results in given for values, _ in results.values()])


@pytest.mark.parametrize("profile", ["ort-int8", "ov-int8"])
def test_a_record_of_a_transformer_fits_what_is_compiled(
    profile: str, stages: Path, pictures: Path, tmp_path: Path
) -> None:
    record = calibrate(open_chain(stages), from_path(pictures))
    assert record.method == "minmax"
    save(record, tmp_path / "t.calib")
    compiled = compile([stages], profile=profile, calibration=tmp_path / "t.calib", store=Store(tmp_path / "store"))
    assert len(compiled.engines) == 2


def test_a_channel_that_reaches_far_does_not_cost_the_others_their_levels(stages: Path, pictures: Path) -> None:
    chain = open_chain(stages)
    record = calibrate(chain, from_path(pictures))
    images = [picture(seed) for seed in range(20, 24)]
    made = quantise_stages(chain.stages, record, scheme_of(load_profile("ort-int8")))
    assert 0.8 < made.integer_share < 1, "all but what attention weighs"
    assert sqnr(last(chain, images), last(chain.quantised(made), images)) > 30
