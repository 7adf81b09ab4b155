"""What ONNX Runtime is told about integers, by processor."""

from __future__ import annotations

import pytest

from stagekit.quant import unasked


@pytest.mark.parametrize("saturates", [True, False])
def test_slow_exact_kernels_are_asked_for_where_the_quick_ones_saturate(
    saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unasked, "adds_pairs_in_16_bits", lambda: saturates)
    assert bool(unasked.exact_products()) == saturates
