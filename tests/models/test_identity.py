"""A backbone id changes with all that a task relies on, and with nothing else."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from stagekit.models.backbone import Backbone
from stagekit.models.identity import backbone_id, tensor_digest
from stagekit.models.registry import build, create
from stagekit.models.vit import ViT

TINY = ViT("tiny", width=16, depth=2, heads=4, patch=4, grid=5, cuts=("unit1",), size=(20, 20))


def test_the_id_is_the_hash_that_the_docstring_describes() -> None:
    backbone = build(TINY)
    tensors = []
    for name, parameter in backbone.named_parameters():
        digest = hashlib.sha256(parameter.numpy().astype("<f4").tobytes()).hexdigest()
        tensors.append([name.split(".", 2)[2], "torch.float32", list(parameter.shape), digest])
    description = {
        "architecture": {"name": "tiny", "revision": 1},
        "boundaries": ["stem", "unit1", "unit2"],
        "preprocessing": {"mean": [123.675, 116.28, 103.53], "std": [58.395, 57.12, 57.375]},
        "tensors": sorted(tensors),
    }
    text = json.dumps(description, sort_keys=True, separators=(",", ":"))

    assert backbone_id(backbone) == hashlib.sha256(text.encode()).hexdigest()


def test_the_frame_size_and_what_is_prepared_for_it_do_not_count() -> None:
    backbone = build(TINY)
    other = build(TINY, size=(12, 40))

    assert backbone_id(other) == backbone_id(backbone)


def test_frozen_or_not_training_or_not_does_not_count() -> None:
    backbone = build(TINY)
    before = backbone_id(backbone)

    backbone.train().requires_grad_(True)

    assert backbone_id(backbone) == before


def test_one_bit_of_one_weight_counts() -> None:
    backbone = build(TINY)
    before = backbone_id(backbone)

    with torch.no_grad():
        weight = next(iter(backbone.parameters())).view(-1)
        weight[0] = torch.nextafter(weight[0], torch.tensor(float("inf")))

    assert backbone_id(backbone) != before


def test_a_running_statistic_counts_and_a_step_counter_does_not() -> None:
    backbone = create("lite0")
    buffers = dict(backbone.named_buffers())
    before = backbone_id(backbone)

    buffers["segments.0.stem.norm.num_batches_tracked"] += 1
    assert backbone_id(backbone) == before
    buffers["segments.0.stem.norm.running_mean"] += 1
    assert backbone_id(backbone) != before


@pytest.mark.parametrize(
    "changed",
    [
        lambda: build(TINY, cuts=()),
        lambda: build(TINY, seed=1),
        lambda: build(replace(TINY, name="other")),
    ],
    ids=["cuts", "weights", "architecture"],
)
def test_cuts_weights_and_architecture_count(changed: object) -> None:
    assert callable(changed)
    other = changed()
    assert isinstance(other, Backbone)

    assert backbone_id(other) != backbone_id(build(TINY))


def test_preprocessing_counts() -> None:
    backbone = build(TINY)
    before = backbone_id(backbone)

    backbone.preprocessing = replace(backbone.preprocessing, std=(1.0, 1.0, 1.0))

    assert backbone_id(backbone) != before


def test_output_stride_counts_although_weights_are_equal() -> None:
    assert backbone_id(create("lite0")) != backbone_id(create("lite0", output_stride=16))


@pytest.mark.parametrize(
    "array", [np.zeros(0, np.float32), np.ones(1, np.float32), np.ones((2, 3), np.float32)[:, ::2]]
)
def test_a_digest_is_of_the_bytes_whatever_the_strides(array: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    expected = hashlib.sha256(array.tobytes()).hexdigest()
    assert tensor_digest(torch.from_numpy(array)) == expected
    assert tensor_digest(torch.from_numpy(array).clone(memory_format=torch.preserve_format)) == expected


def test_units_that_hide_each_other_have_no_identity(conv_backbone: Backbone) -> None:
    second = conv_backbone.segments[1]
    conv_backbone.segments.append(second)  # the same unit names again
    with pytest.raises(ValueError, match="unit names must differ"):
        backbone_id(conv_backbone)
