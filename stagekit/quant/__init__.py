"""Integers for frozen stages: number formats, the calibration record, Q/DQ graphs. Pure functions on graphs.

In the order in which data passes: ``statistics`` (what was seen) -> ``record`` (on disk) -> ``ranges`` (methods)
-> ``formats`` and ``scheme`` (integers) -> ``positions`` (where) -> ``weights`` and ``rounding`` -> ``qdq`` (the graph)
-> ``stages`` (all of a backbone). ``norms``, ``equalise`` and ``correction`` change float weights first; ``error``
measures.
"""
