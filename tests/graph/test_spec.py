"""Tensors in the forms of others."""

from __future__ import annotations

import pytest

from stagekit.errors import UsageError
from stagekit.graph.spec import BLOCKED, TensorSpec

MAP = TensorSpec("x", "float32", ("batch", 40, 7, 9), "NCHW")


def test_groups_hold_all_channels_and_the_last_is_filled_up() -> None:
    assert MAP.blocked(16).shape == ("batch", 3, 7, 9, 16)
    assert MAP.blocked(8).shape == ("batch", 5, 7, 9, 8)
    assert MAP.blocked(16).layout == BLOCKED
    assert MAP.blocked(16).bind(batch=2).nbytes() == 2 * 48 * 7 * 9 * 4


@pytest.mark.parametrize(
    "spec", [MAP.transposed("NHWC"), TensorSpec("x", "float32", ("batch", "channels", 7, 9), "NCHW"), MAP.blocked(8)]
)
def test_only_maps_with_a_known_number_of_channels_first_are_grouped(spec: TensorSpec) -> None:
    with pytest.raises(UsageError, match="known channels"):
        spec.blocked(16)


@pytest.mark.parametrize(
    ("form", "shape"),
    [
        (TensorSpec("f", "bfloat16", ("batch", 1, 2, 3), "NCHW"), ("batch", 40, 7, 9)),
        (TensorSpec("f", "float32", ("batch", 2, 3, 1), "NHWC"), ("batch", 7, 9, 40)),
        (TensorSpec("f", "float32", ("batch", 1, 2, 3, 16), BLOCKED), ("batch", 3, 7, 9, 16)),
        (TensorSpec("f", "float16", ("batch", 1)), ("batch", 40, 7, 9)),
    ],
)
def test_a_tensor_takes_anothers_type_and_order_and_keeps_its_size(
    form: TensorSpec, shape: tuple[int | str, ...]
) -> None:
    taken = MAP.in_form(form)
    assert (taken.name, taken.dtype, taken.shape) == ("x", form.dtype, shape)
    assert taken.layout == (form.layout or MAP.layout)
