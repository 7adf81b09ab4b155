from __future__ import annotations

import pytest
import torch

from stagekit.tune import precision
from stagekit.tune.precision import autocast, precision_of
from stagekit.tune.sections import TrainSection

CPU = torch.device("cpu")


@pytest.mark.parametrize("fast", [True, False])
def test_the_recipe_decides_and_else_the_processor(fast: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda: fast)
    assert precision_of(TrainSection(precision="bf16"), CPU) == torch.bfloat16
    assert precision_of(TrainSection(precision="f32"), CPU) == torch.float32
    assert precision_of(TrainSection(), CPU) == (torch.bfloat16 if fast else torch.float32)


@pytest.mark.parametrize(("stated", "expected"), [("bf16", torch.bfloat16), ("f32", torch.float32)])
def test_a_forward_pass_is_in_the_stated_precision(stated: str, expected: torch.dtype) -> None:
    with autocast(TrainSection(precision=stated), CPU):  # type: ignore[arg-type]  # a parameter of the test
        assert torch.nn.Linear(2, 2)(torch.ones(1, 2)).dtype == expected
