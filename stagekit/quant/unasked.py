"""Integers that nobody asked for: what runtimes must be told not to make of a Q/DQ graph."""

ONNXRUNTIME_OPTIMISERS = ("WeightBiasQuantization",)
"""To leave out of every ONNX Runtime session on a Q/DQ graph: it makes integers, with one scale a weight, of products
that were kept in floats between integers."""
