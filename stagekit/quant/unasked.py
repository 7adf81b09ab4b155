"""What ONNX Runtime does with integers unless it is told not to."""

from stagekit.cpu import adds_pairs_in_16_bits

ONNXRUNTIME_OPTIMISERS = ("WeightBiasQuantization",)
"""To leave out of every session on a Q/DQ graph: it makes integers, with one scale a weight, of products that were kept
in floats between integers."""


def exact_products() -> dict[str, str]:
    """Configuration entries for sessions on integers that are to be exact here.

    x86 processors without VNNI saturate sums of two products of bytes in 16 bits; with this entry they take kernels
    that do not and are a third slower. Weights of 7 bits do without it. On processors with AMX it would take their
    matrix units from the products, which are exact there, and a product lasts five to nine times as long.
    """
    return {"session.x64quantprecision": "1"} if adds_pairs_in_16_bits() else {}
