"""What ONNX Runtime is told about integers, by processor."""

from __future__ import annotations

import pytest
from onnxruntime import SessionOptions

from stagekit.quant import unasked


@pytest.mark.parametrize("saturates", [True, False])
def test_slow_exact_kernels_are_asked_for_where_the_quick_ones_saturate(
    saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unasked, "adds_pairs_in_16_bits", lambda: saturates)
    options = SessionOptions()
    unasked.ask_for_exact_products(options)
    key = "session.x64quantprecision"
    if saturates:
        assert options.get_session_config_entry(key) == "1"
    else:
        with pytest.raises(RuntimeError, match=key):
            options.get_session_config_entry(key)
