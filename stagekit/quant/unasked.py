"""What ONNX Runtime does with integers unless it is told not to."""

from typing import Any

from stagekit.cpu import adds_pairs_in_16_bits

ONNXRUNTIME_OPTIMISERS = ("WeightBiasQuantization",)
"""To leave out of every session on a Q/DQ graph: it makes integers, with one scale a weight, of products that were kept
in floats between integers."""


def ask_for_exact_products(options: Any) -> None:
    """Makes sessions on integers exact on this processor.

    x86 processors without VNNI saturate sums of two products of bytes in 16 bits; told so, they take kernels that do
    not and are a third slower. Weights of 7 bits do without it. On processors with AMX, which are exact, it would take
    the matrix units from the products, and a product would last five to nine times as long.

    Args:
        options: ``onnxruntime.SessionOptions``.
    """
    if adds_pairs_in_16_bits():
        options.add_session_config_entry("session.x64quantprecision", "1")
