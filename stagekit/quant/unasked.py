"""What ONNX Runtime does with integers unless it is told not to."""

ONNXRUNTIME_OPTIMISERS = ("WeightBiasQuantization",)
"""To leave out of every session on a Q/DQ graph: it makes integers, with one scale a weight, of products that were kept
in floats between integers."""

EXACT_PRODUCTS = ("session.x64quantprecision", "1")
"""A configuration entry for sessions on integers. x86 processors without VNNI saturate sums of two products of bytes in
16 bits; with this they take kernels that do not and are a third slower. It changes nothing on others. Weights of 7 bits
do without it."""
